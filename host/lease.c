/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lease.c - lease tables. Any thread. Entries lie in blocks of doubling size
 * that are never freed before the end, so a value from anywhere may be looked
 * up without a lock. Limit: the generation of one entry repeats after 2^32
 * leases.
 *
 * Free entries: `mine` is a list that only the lock's holder walks; `back` is a
 * stack that anybody pushes to. The holder takes the whole stack, never a
 * single entry, so that no entry can come back between its load and its swap.
 */
#include "host/lease.h"

#include "host/log.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define ENTRY_BITS  20u
#define CLIENT_BITS 12u
#define ENTRY_NONE  UINT32_MAX
#define BLOCK_FIRST 64u /* entries of the first block; the next has twice as many */
#define BLOCKS      14u /* 64 * (2^14 - 1) entries */

_Static_assert(1u << ENTRY_BITS == KVH_LEASES_MAX, "entries fit the value");
_Static_assert(1u << CLIENT_BITS == KVH_CLIENTS_MAX, "clients fit the value");
_Static_assert(BLOCK_FIRST *((1u << BLOCKS) - 1) <= KVH_LEASES_MAX, "blocks fit");

/* generation << 32 | record + 1; the lower half 0: FREE. */
struct entry {
	_Atomic(uint64_t) word;
	_Atomic(uint32_t) next;        /* FREE: in mine or back */
	uint32_t transfers;            /* under the client's lock; only with a deadline */
	_Atomic(uint64_t) deadline_ns; /* HELD: 0 is never */
};

struct kvh_client {
	pthread_mutex_t lock;
	struct kvh_clients *all;
	uint32_t id;
	bool open;
	uint32_t next_id; /* closed: of the free ids */
	uint32_t mine, n_mine;
	uint32_t n_blocks;
	_Atomic(uint32_t) back;
	_Atomic(uint64_t) live;
	_Atomic(uint64_t) earliest_ns; /* no deadline is before; UINT64_MAX: none */
	_Atomic(struct entry *) blocks[BLOCKS];
};

struct kvh_clients {
	pthread_mutex_t lock; /* of ids; before a client's */
	uint32_t free_id;     /* of closed clients, or ENTRY_NONE */
	uint32_t n_ids;       /* ever used */
	_Atomic(bool) timed;  /* there may be leases with deadlines */
	_Atomic(struct kvh_client *) table[KVH_CLIENTS_MAX];
};

static inline uint32_t block_of(uint32_t entry, uint32_t *offset_p)
{
	uint32_t shifted = entry / BLOCK_FIRST + 1;
	uint32_t block = 31 - (uint32_t)__builtin_clz(shifted);

	*offset_p = entry - BLOCK_FIRST * ((1u << block) - 1);
	return block;
}

/* NULL: was never made. */
static struct entry *entry_at(struct kvh_client *client, uint32_t entry)
{
	uint32_t offset, block = block_of(entry, &offset);
	struct entry *entries;

	if (block >= BLOCKS)
		return NULL;
	entries = atomic_load_explicit(&client->blocks[block], memory_order_acquire);
	return entries != NULL ? &entries[offset] : NULL;
}

static struct kvh_client *client_at(struct kvh_clients *clients, uint32_t id)
{
	if (id >= KVH_CLIENTS_MAX)
		return NULL;
	return atomic_load_explicit(&clients->table[id], memory_order_acquire);
}

/* ---- clients ------------------------------------------------------------ */

int kvh_clients_open(struct kvh_clients **clients_p)
{
	struct kvh_clients *clients = calloc(1, sizeof(*clients));

	if (clients == NULL)
		return -ENOMEM;
	pthread_mutex_init(&clients->lock, NULL);
	clients->free_id = ENTRY_NONE;
	*clients_p = clients;
	return 0;
}

static void client_free(struct kvh_client *client)
{
	for (uint32_t i = 0; i < client->n_blocks; i++)
		free(atomic_load_explicit(&client->blocks[i], memory_order_relaxed));
	pthread_mutex_destroy(&client->lock);
	free(client);
}

void kvh_clients_close(struct kvh_clients *clients)
{
	for (uint32_t i = 0; i < clients->n_ids; i++)
		client_free(client_at(clients, i));
	pthread_mutex_destroy(&clients->lock);
	free(clients);
}

/* Under clients->lock. */
static int client_make(struct kvh_clients *clients, struct kvh_client **client_p)
{
	struct kvh_client *client;

	if (clients->n_ids == KVH_CLIENTS_MAX) {
		kvh_err("more than %u clients", KVH_CLIENTS_MAX);
		return -EMFILE;
	}
	client = calloc(1, sizeof(*client));
	if (client == NULL)
		return -ENOMEM;
	pthread_mutex_init(&client->lock, NULL);
	client->all = clients;
	client->id = clients->n_ids;
	client->mine = ENTRY_NONE;
	atomic_init(&client->back, ENTRY_NONE);
	atomic_init(&client->earliest_ns, UINT64_MAX);
	atomic_store_explicit(&clients->table[client->id], client, memory_order_release);
	clients->n_ids++;
	*client_p = client;
	return 0;
}

int kvh_client_open(struct kvh_clients *clients, uint32_t *id_p)
{
	struct kvh_client *client = NULL;
	int rc = 0;

	pthread_mutex_lock(&clients->lock);
	if (clients->free_id != ENTRY_NONE) {
		client = client_at(clients, clients->free_id);
		clients->free_id = client->next_id;
	} else {
		rc = client_make(clients, &client);
	}
	pthread_mutex_unlock(&clients->lock);
	if (rc != 0)
		return rc;
	pthread_mutex_lock(&client->lock);
	client->open = true;
	pthread_mutex_unlock(&client->lock);
	*id_p = client->id;
	return 0;
}

struct kvh_client *kvh_client_lock(struct kvh_clients *clients, uint32_t id)
{
	struct kvh_client *client = client_at(clients, id);

	if (client == NULL)
		return NULL;
	pthread_mutex_lock(&client->lock);
	if (client->open)
		return client;
	pthread_mutex_unlock(&client->lock);
	return NULL;
}

void kvh_client_unlock(struct kvh_client *client)
{
	pthread_mutex_unlock(&client->lock);
}

/* ---- entries ------------------------------------------------------------ */

/* Whoever's swap succeeds ends the lease. */
static bool entry_end(struct kvh_client *client, uint32_t number, uint64_t word)
{
	struct entry *entry = entry_at(client, number);
	uint64_t generation = (word >> 32) + 1;
	uint32_t head;

	generation += (uint32_t)generation == 0; /* 0 is no lease's */
	if (!atomic_compare_exchange_strong(&entry->word, &word, generation << 32))
		return false;
	atomic_fetch_sub_explicit(&client->live, 1, memory_order_relaxed);
	head = atomic_load_explicit(&client->back, memory_order_relaxed);
	do
		atomic_store_explicit(&entry->next, head, memory_order_relaxed);
	while (!atomic_compare_exchange_weak_explicit(
		&client->back, &head, number, memory_order_release, memory_order_relaxed));
	return true;
}

static void collect_back(struct kvh_client *client)
{
	uint32_t at = atomic_exchange_explicit(&client->back, ENTRY_NONE, memory_order_acquire);

	while (at != ENTRY_NONE) {
		struct entry *entry = entry_at(client, at);
		uint32_t next = atomic_load_explicit(&entry->next, memory_order_relaxed);

		atomic_store_explicit(&entry->next, client->mine, memory_order_relaxed);
		client->mine = at;
		client->n_mine++;
		at = next;
	}
}

static bool add_block(struct kvh_client *client)
{
	uint32_t block = client->n_blocks;
	uint32_t n = BLOCK_FIRST << block;
	uint32_t first = BLOCK_FIRST * ((1u << block) - 1);
	struct entry *entries;

	if (block == BLOCKS)
		return false;
	entries = calloc(n, sizeof(*entries));
	if (entries == NULL)
		return false;
	for (uint32_t i = 0; i < n; i++) {
		atomic_init(&entries[i].word, UINT64_C(1) << 32);
		atomic_init(&entries[i].next, i + 1 < n ? first + i + 1 : client->mine);
		atomic_init(&entries[i].deadline_ns, 0);
	}
	client->mine = first;
	client->n_mine += n;
	client->n_blocks++;
	atomic_store_explicit(&client->blocks[block], entries, memory_order_release);
	return true;
}

uint32_t kvh_client_prepare(struct kvh_client *client, uint32_t n)
{
	if (client->n_mine < n)
		collect_back(client);
	while (client->n_mine < n && add_block(client))
		;
	return client->n_mine < n ? client->n_mine : n;
}

/* With the client locked. */
static void set_deadline(struct kvh_client *client, struct entry *entry, uint64_t deadline_ns)
{
	atomic_store_explicit(&entry->deadline_ns, deadline_ns, memory_order_relaxed);
	if (deadline_ns != 0 && deadline_ns < atomic_load(&client->earliest_ns))
		atomic_store(&client->earliest_ns, deadline_ns);
	if (deadline_ns != 0)
		atomic_store(&client->all->timed, true); /* after the deadline can be seen */
}

kvh_lease_t kvh_client_take(struct kvh_client *client, uint32_t rec, uint64_t deadline_ns)
{
	uint32_t number = client->mine;
	struct entry *entry = entry_at(client, number);
	uint64_t word = atomic_load_explicit(&entry->word, memory_order_relaxed);

	assert(client->n_mine > 0 && (uint32_t)word == 0);
	client->mine = atomic_load_explicit(&entry->next, memory_order_relaxed);
	client->n_mine--;
	entry->transfers = 0;
	set_deadline(client, entry, deadline_ns);
	atomic_fetch_add_explicit(&client->live, 1, memory_order_relaxed);
	atomic_store_explicit(&entry->word, word | (rec + 1), memory_order_release);
	return word | (uint64_t)client->id << ENTRY_BITS | number;
}

/* The client, and the entry's number and word, of a lease that is held. */
static struct kvh_client *lease_find(struct kvh_clients *clients, kvh_lease_t lease,
				     uint32_t *number_p, uint64_t *word_p)
{
	struct kvh_client *client = client_at(clients, (uint32_t)lease >> ENTRY_BITS &
							       (KVH_CLIENTS_MAX - 1));
	struct entry *entry;

	*number_p = (uint32_t)lease & (KVH_LEASES_MAX - 1);
	entry = client != NULL ? entry_at(client, *number_p) : NULL;
	if (entry == NULL)
		return NULL;
	*word_p = atomic_load_explicit(&entry->word, memory_order_acquire);
	return (*word_p ^ lease) >> 32 == 0 && (uint32_t)*word_p != 0 ? client : NULL;
}

int kvh_lease_end(struct kvh_clients *clients, kvh_lease_t lease, uint32_t *rec_p)
{
	uint32_t number;
	uint64_t word;
	struct kvh_client *client = lease_find(clients, lease, &number, &word);

	if (client == NULL || !entry_end(client, number, word))
		return -ESTALE;
	*rec_p = (uint32_t)word - 1;
	return 0;
}

int kvh_lease_rec(struct kvh_clients *clients, kvh_lease_t lease, uint32_t *rec_p)
{
	uint32_t number;
	uint64_t word;

	if (lease_find(clients, lease, &number, &word) == NULL)
		return -ESTALE;
	*rec_p = (uint32_t)word - 1;
	return 0;
}

/* ---- deadlines ---------------------------------------------------------- */

void kvh_lease_deadline(struct kvh_clients *clients, kvh_lease_t lease, uint64_t deadline_ns)
{
	uint32_t number;
	uint64_t word;
	struct kvh_client *client = lease_find(clients, lease, &number, &word);

	if (client == NULL)
		return;
	pthread_mutex_lock(&client->lock);
	if (lease_find(clients, lease, &number, &word) != NULL)
		set_deadline(client, entry_at(client, number), deadline_ns);
	pthread_mutex_unlock(&client->lock);
}

/* Adds to the transfers of a lease with a deadline. Under the lock the entry may
 * end, but not be taken again. */
static int add_transfer(struct kvh_clients *clients, kvh_lease_t lease, uint32_t n)
{
	uint32_t number;
	uint64_t word;
	struct kvh_client *client = lease_find(clients, lease, &number, &word);
	struct entry *entry;
	int rc = -ESTALE;

	if (client == NULL)
		return -ESTALE;
	entry = entry_at(client, number);
	if (atomic_load_explicit(&entry->deadline_ns, memory_order_relaxed) == 0)
		return 0;
	pthread_mutex_lock(&client->lock);
	if (lease_find(clients, lease, &number, &word) != NULL) {
		entry->transfers += n;
		rc = 0;
	}
	pthread_mutex_unlock(&client->lock);
	return rc;
}

int kvh_lease_begin(struct kvh_clients *clients, kvh_lease_t lease, uint32_t *rec_p)
{
	int rc = add_transfer(clients, lease, 1);

	return rc == 0 ? kvh_lease_rec(clients, lease, rec_p) : rc;
}

void kvh_lease_finish(struct kvh_clients *clients, kvh_lease_t lease)
{
	(void)add_transfer(clients, lease, UINT32_MAX); /* if its owner has not ended it */
}

/* With the client locked. */
static uint64_t expire_client(struct kvh_client *client, uint64_t now_ns,
			      void (*ended)(void *arg, uint32_t rec), void *arg)
{
	uint32_t n = BLOCK_FIRST * ((1u << client->n_blocks) - 1);
	uint64_t earliest = UINT64_MAX, expired = 0;

	for (uint32_t i = 0; i < n; i++) {
		struct entry *entry = entry_at(client, i);
		uint64_t word = atomic_load_explicit(&entry->word, memory_order_acquire);
		uint64_t deadline = atomic_load_explicit(&entry->deadline_ns,
							 memory_order_relaxed);

		if ((uint32_t)word == 0 || deadline == 0)
			continue;
		if (deadline > now_ns || entry->transfers > 0) {
			earliest = deadline < earliest ? deadline : earliest;
		} else if (entry_end(client, i, word)) {
			expired++;
			ended(arg, (uint32_t)word - 1);
		}
	}
	atomic_store_explicit(&client->earliest_ns, earliest, memory_order_relaxed);
	return expired;
}

uint64_t kvh_clients_expire(struct kvh_clients *clients, uint64_t now_ns,
			    void (*ended)(void *arg, uint32_t rec), void *arg,
			    uint64_t *next_ns_p)
{
	uint64_t expired = 0, earliest;

	*next_ns_p = UINT64_MAX;
	atomic_store(&clients->timed, false); /* before deadlines are looked at */
	for (uint32_t i = 0; i < KVH_CLIENTS_MAX; i++) {
		struct kvh_client *client = client_at(clients, i);

		if (client == NULL)
			break;
		earliest = atomic_load(&client->earliest_ns);
		if (earliest <= now_ns) {
			pthread_mutex_lock(&client->lock);
			expired += expire_client(client, now_ns, ended, arg);
			pthread_mutex_unlock(&client->lock);
			earliest = atomic_load_explicit(&client->earliest_ns,
							memory_order_relaxed);
		}
		*next_ns_p = earliest < *next_ns_p ? earliest : *next_ns_p;
	}
	if (*next_ns_p != UINT64_MAX)
		atomic_store(&clients->timed, true);
	return expired;
}

bool kvh_clients_timed(struct kvh_clients *clients)
{
	return atomic_load_explicit(&clients->timed, memory_order_relaxed);
}

static void end_all(struct kvh_client *client, void (*ended)(void *arg, uint32_t rec),
		    void *arg)
{
	uint32_t n = BLOCK_FIRST * ((1u << client->n_blocks) - 1);

	for (uint32_t i = 0; i < n; i++) {
		uint64_t word = atomic_load_explicit(&entry_at(client, i)->word,
						     memory_order_acquire);

		if ((uint32_t)word != 0 && entry_end(client, i, word))
			ended(arg, (uint32_t)word - 1);
	}
}

int kvh_client_close(struct kvh_clients *clients, uint32_t id,
		     void (*ended)(void *arg, uint32_t rec), void *arg)
{
	struct kvh_client *client = kvh_client_lock(clients, id);

	if (client == NULL)
		return -ESTALE;
	end_all(client, ended, arg);
	client->open = false;
	pthread_mutex_unlock(&client->lock);
	pthread_mutex_lock(&clients->lock);
	client->next_id = clients->free_id;
	clients->free_id = id;
	pthread_mutex_unlock(&clients->lock);
	return 0;
}

uint64_t kvh_clients_leases(struct kvh_clients *clients)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < KVH_CLIENTS_MAX; i++) {
		struct kvh_client *client = client_at(clients, i);

		if (client == NULL)
			break;
		n += atomic_load_explicit(&client->live, memory_order_relaxed);
	}
	return n;
}
