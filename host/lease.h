/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lease.h - the clients' tables of leases: who holds what. A lease is an entry;
 * its value says client, entry and the entry's generation, so that a value that
 * was given back once is never taken for a later lease.
 *
 *                       take (client locked)
 *    FREE, generation g ---------------------> HELD, generation g, record
 *      ^                                         |
 *      | generation + 1                          |
 *      '---------- end, client_close ------------'   one compare-and-swap: one wins
 *
 *   value: generation 32 | client 12 | entry 20
 *   live of a client == its entries that are HELD
 *
 * A lease may have a deadline: then it ends by itself at the first call of
 * kvh_clients_expire after that, but not while a transfer uses it, between
 * kvh_lease_begin and _finish.
 *
 * Taking locks the client, ending locks nothing. Tables stay when a client
 * closes, for the next one with its number: the generations go on.
 */
#ifndef KVH_HOST_LEASE_H
#define KVH_HOST_LEASE_H

#include "kvhoist.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVH_CLIENTS_MAX 4096u
#define KVH_LEASES_MAX  (1u << 20) /* of a client */

struct kvh_clients;
struct kvh_client;

int kvh_clients_open(struct kvh_clients **clients_p);
/* Leases that are still held are dropped. */
void kvh_clients_close(struct kvh_clients *clients);

/* -EMFILE above KVH_CLIENTS_MAX, -ENOMEM. */
int kvh_client_open(struct kvh_clients *clients, uint32_t *id_p);
/* Ends all its leases: `ended` is called once for each, with the client locked.
 * -ESTALE: no such client. */
int kvh_client_close(struct kvh_clients *clients, uint32_t id,
		     void (*ended)(void *arg, uint32_t rec), void *arg);

/* Locks an open client; NULL: no such client. While it is locked it cannot
 * close: leases that are taken now are seen by its close. */
struct kvh_client *kvh_client_lock(struct kvh_clients *clients, uint32_t id);
void kvh_client_unlock(struct kvh_client *client);
/* Makes sure that so many can be taken; returns how many can, up to n. */
uint32_t kvh_client_prepare(struct kvh_client *client, uint32_t n);
/* deadline_ns: when it ends by itself; 0: never. */
kvh_lease_t kvh_client_take(struct kvh_client *client, uint32_t rec, uint64_t deadline_ns);

/* 0, and the record, whose count the caller now has to take back; or -ESTALE. */
int kvh_lease_end(struct kvh_clients *clients, kvh_lease_t lease, uint32_t *rec_p);
/* The record of a lease that is held at this moment, or -ESTALE. If two calls
 * give 0, the lease was held all the time in between. */
int kvh_lease_rec(struct kvh_clients *clients, kvh_lease_t lease, uint32_t *rec_p);

/* A lease's deadline from now on; nothing if it is not held. Not while a transfer
 * uses it. */
void kvh_lease_deadline(struct kvh_clients *clients, kvh_lease_t lease, uint64_t deadline_ns);

/* A transfer starts to use a lease, and ends. Between them the lease does not
 * expire; it can still be ended by its owner. -ESTALE: not held. */
int kvh_lease_begin(struct kvh_clients *clients, kvh_lease_t lease, uint32_t *rec_p);
void kvh_lease_finish(struct kvh_clients *clients, kvh_lease_t lease);

/* Ends the leases whose deadline has passed; returns how many, and when to call
 * again (UINT64_MAX: none has a deadline). Looks through the tables of clients
 * with a deadline that has passed, so it is for once in many milliseconds. */
uint64_t kvh_clients_expire(struct kvh_clients *clients, uint64_t now_ns,
			    void (*ended)(void *arg, uint32_t rec), void *arg,
			    uint64_t *next_ns_p);

/* False: no lease has a deadline. */
bool kvh_clients_timed(struct kvh_clients *clients);

uint64_t kvh_clients_leases(struct kvh_clients *clients);

#ifdef __cplusplus
}
#endif
#endif
