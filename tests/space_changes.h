/* SPDX-License-Identifier: Apache-2.0 */
/*
 * space_changes.h - a descriptor that has everything, and changes of one field
 * each.
 */
#ifndef KVH_TESTS_SPACE_CHANGES_H
#define KVH_TESTS_SPACE_CHANGES_H

#include "engine_rig.h"

namespace enginetest
{

/* A window group, a state group and a replicated one beside the usual. */
inline Desc rich()
{
	Desc desc;
	layouts::Group window = desc.layout.groups[0], state = window, shared = window;

	window.fields.kind = KVH_GROUP_WINDOW;
	window.fields.window_tokens = 8;
	state.fields.kind = KVH_GROUP_STATE;
	state.shapes.assign(2, {KVH_PLANE_OPAQUE, 7, 0, 0, 0, 0, 100});
	state.planes = {{0, 0, 0, 256, 0, 0}, {0, 0, 128, 256, 0, 0}};
	shared.fields.format = KVH_FORMAT_PORTABLE;
	shared.fields.replicated = 1;
	desc.layout.groups.insert(desc.layout.groups.end(), {window, state, shared});
	desc.salt = "tenant";
	return desc;
}

struct SpaceChange {
	const char *field;
	void (*make)(Desc &desc);
};

const SpaceChange space_changes[] = {
	{"model", [](Desc &d) { d.model += "x"; }},
	{"revision", [](Desc &d) { d.revision = ""; }},
	{"dtype", [](Desc &d) { d.dtype = "fp8_e4m3"; }},
	{"quant", [](Desc &d) { d.quant = "awq"; }},
	{"runner", [](Desc &d) { d.runner = "run-2"; }},
	{"hash_algo", [](Desc &d) { d.hash_algo = "xxh3"; }},
	{"hash_seed", [](Desc &d) { d.hash_seed = "1"; }},
	{"salt", [](Desc &d) { d.salt = "tenanu"; }},
	{"salt_len", [](Desc &d) { d.salt.push_back('\0'); }},
	{"chunk_tokens", [](Desc &d) { d.layout.chunk_tokens *= 2; }},
	{"layers", [](Desc &d) { d.layers++; }},
	{"heads", [](Desc &d) { d.heads++; }},
	{"head_size", [](Desc &d) { d.head_size++; }},
	{"tp_size", [](Desc &d) { d.tp_size++; }},
	{"pp_size", [](Desc &d) { d.pp_size++; }},
	{"n_groups", [](Desc &d) { d.layout.groups.pop_back(); }},
	{"order of groups", [](Desc &d) { std::swap(d.layout.groups[0], d.layout.groups[3]); }},
	{"group kind", [](Desc &d) { d.layout.groups[0].fields.kind = KVH_GROUP_STATE; }},
	{"group format",
	 [](Desc &d) { d.layout.groups[0].fields.format = KVH_FORMAT_PORTABLE; }},
	{"page_tokens", [](Desc &d) { d.layout.groups[0].fields.page_tokens = 2; }},
	{"window_tokens", [](Desc &d) { d.layout.groups[1].fields.window_tokens++; }},
	{"replicated", [](Desc &d) { d.layout.groups[0].fields.replicated = 1; }},
	{"n_planes", [](Desc &d) { d.layout.groups[2].shapes.pop_back(); }},
	{"a plane moves to the next group",
	 [](Desc &d) {
		 d.layout.groups[1].shapes.insert(d.layout.groups[1].shapes.begin(),
						  d.layout.groups[0].shapes.back());
		 d.layout.groups[1].shapes.front().layer = 0;
		 d.layout.groups[0].shapes.pop_back();
	 }},
	{"plane kind",
	 [](Desc &d) {
		 d.layout.groups[0].shapes[0] = {KVH_PLANE_OPAQUE, 0, 0, 0, 0, 0, 384};
	 }},
	{"plane layer", [](Desc &d) { d.layout.groups[0].shapes.back().layer++; }},
	{"plane heads", [](Desc &d) { d.layout.groups[0].shapes[1].heads++; }},
	{"plane head_bytes", [](Desc &d) { d.layout.groups[0].shapes[1].head_bytes++; }},
	{"plane order", [](Desc &d) { d.layout.groups[0].shapes[1].order = KVH_ORDER_HND; }},
	{"plane page_bytes", [](Desc &d) { d.layout.groups[2].shapes[1].page_bytes++; }},
};

} // namespace enginetest

#endif
