/* How packets leave, by the harness's own version of the rule (routes.h): source and interface of each peer, and loops. */
#include "plane_model.h"

#include "model_commands.h"
#include "model_netlink.h"

enum { SETTLE_S = 2, NOTICES = 20 };

static uint32_t struck_before, dumps_before;
static uint64_t loop_drops_before, failures_before;
static bool links_cut;

void paths_reset(void)
{
    struck_before = dumps_before = 0;
    failures_before = 0;
    links_cut = false;
}

static bool link_local(const struct udpring_address *address)
{
    return address->family == AF_INET6 && address->ip[0] == 0xfe && address->ip[1] >> 6 == 2;
}

static bool is_route(uint8_t leads)
{
    return leads != ROUTE_NONE && leads != ROUTE_BLACKHOLE && leads != ROUTE_INVALID;
}

static enum way way_by(uint32_t link)
{
    return kernel.tunnel && link == kernel.tunnel ? WAY_OWN_TUNNEL : kernel.other_tunnel && link == kernel.other_tunnel ? WAY_OTHER_TUNNEL : WAY_OUT;
}

/* The rule of the kernel's send4: the address where the peer was heard, while the route from there leaves on that interface. */
static void right_path(const struct peer *peer, struct path *path)
{
    const struct udpring_address *to = &peer->endpoint, none = {0};
    uint32_t bound = model.plane->bound_to[to->family == AF_INET6], mark = model.plane->fwmark;
    bool scoped = link_local(to) || link_local(&peer->heard_on);
    uint8_t leads = ROUTE_NONE;
    *path = (struct path){.interface_index = scoped ? peer->heard_by : peer->heard_by < ROUTE_LINKS ? model_routes.vrf[peer->heard_by] : 0};
    if (link_local(to)) {
        path->source = peer->heard_on;
        path->leaves_by = to->scope_id;
        path->way = way_by(to->scope_id);
        return;
    }
    if (peer->heard_on.family) {
        leads = netlink_route(to, &peer->heard_on, path->interface_index ? path->interface_index : bound, mark);
        if (is_route(leads) && (leads == ROUTE_LOCAL || !peer->heard_by || leads == peer->heard_by))
            path->source = peer->heard_on;
    }
    if (!path->source.family) {
        if (link_local(&peer->heard_on))
            path->interface_index = 0;
        leads = netlink_route(to, &none, path->interface_index ? path->interface_index : bound, mark);
    }
    path->leaves_by = !is_route(leads) ? 0 : leads == ROUTE_LOCAL ? 1 : leads;
    path->way = way_by(leads);
}

static void check_links(void)
{
    const struct routes *routes = &model.plane->routes;
    uint32_t slaves = 0;
    for (uint32_t i = 1; i < ROUTE_LINKS; i++) {
        struct link_note note = {i, model_routes.vrf[i]};
        slaves += note.vrf != 0;
        CLAIM(!routes_link_changes(routes, &note), "interface %u is not known to be in VRF %u", i, note.vrf);
    }
    CLAIM(routes->vrf_slaves_count == slaves, "%u interfaces in VRFs are known, there are %u", routes->vrf_slaves_count, slaves);
}

static struct peer *of_slot(uint32_t slot)
{
    return plane_peer(model.plane, model.life[model.present[slot]].id);
}

static void check_peer(uint32_t slot)
{
    const struct peer *peer = of_slot(slot);
    struct path right;
    if (!peer->endpoint.family)
        return;
    right_path(peer, &right);
    CLAIM(peer->source.family == right.source.family && !memcmp(peer->source.ip, right.source.ip, 16),
          "packets to peer %u leave from version %u, not %u", slot, peer->source.family, right.source.family);
    CLAIM(peer->interface_index == right.interface_index, "interface %u is asked for, not %u", peer->interface_index, right.interface_index);
    CLAIM(peer->leaves_by == right.leaves_by && peer->way == right.way, "peer %u is thought to leave by %u, not %u",
          slot, peer->leaves_by, right.leaves_by);
}

static bool right_loops(uint32_t slot)
{
    uint32_t next = slot;
    for (uint32_t hops = 0; hops <= PEERS; hops++) {
        struct path path;
        const struct peer *peer = of_slot(next);
        if (!peer->endpoint.family)
            return false;
        right_path(peer, &path);
        if (path.way != WAY_OWN_TUNNEL)
            return false;   /* through a tunnel of others: plane_nested.c */
        uint8_t life = model.outer[peer->endpoint.ip[1] % PEERS];
        if (life == NOBODY)
            return false;
        next = model.life[life].slot;
    }
    return true;
}

static uint64_t loop_drops(void)
{
    uint64_t drops = 0;
    for (uint32_t i = 0; i < model.plane->worker_count; i++)
        drops += model.plane->workers[i].stats.drops[UDPRING_DROP_ROUTING_LOOP];
    return drops;
}

static void check_drops(void)
{
    bool any = nested_may_drop() || model.own_read;
    for (uint32_t slot = 0; slot < PEERS; slot++)
        any |= model.loops[slot];
    if (model.loops_known && !any)
        CLAIM(loop_drops() == loop_drops_before, "packets are dropped for a loop, and there is none");
    model.loops_known = false;
    memset(model.loops, 0, sizeof(model.loops));
}

/* An answer changes what may be dropped from now on. */
void paths_answered(void)
{
    loop_drops_before = loop_drops();
}

void paths_changed(void)
{
    check_drops();
    nested_forget();
}

static void learn_loops(void)
{
    for (uint32_t i = 0; i < model.plane->worker_count; i++)
        if (udp_tx_pending(model.plane->workers[i].tx))
            return;   /* sealed before the change */
    for (uint8_t slot = 0; slot < PEERS; slot++) {
        struct path path = {0};
        if (of_slot(slot)->endpoint.family)
            right_path(of_slot(slot), &path);
        nested_learn(slot, &path, !model.send_errors);   /* a send error may remove a source and so change the path */
        model.loops[slot] = right_loops(slot);
    }
    model.loops_known = true;
    model.own_read = false;
    loop_drops_before = loop_drops();
}

static void settle(void)
{
    threads_pass_time(SETTLE_S * 1000000000ull);
}

static bool failed(void)
{
    return model.plane->routes.failures != failures_before;
}

/* The next notice repeats failed look-ups. The next dump finds lost links. */
void paths_check(void)
{
    if (!kernel.has_netlink)
        return;
    check_drops();
    model_routes.faults = model_routes.dump_fault = 0;
    settle();
    if (model_routes.dumps_struck != dumps_before || links_cut) {
        nested_forget();
        netlink_overrun();
    }
    dumps_before = model_routes.dumps_struck;
    links_cut = false;
    for (uint32_t i = 0; i == 0 || failed(); i++) {
        CLAIM(i < NOTICES, "look-ups fail on and on");
        if (i || model_routes.struck != struck_before) {
            nested_forget();
            netlink_tell(0);
        }
        struck_before = model_routes.struck;
        failures_before = model.plane->routes.failures;
        settle();
    }
    check_links();
    for (uint32_t slot = 0; slot < PEERS; slot++)
        check_peer(slot);
    uint32_t lookups = model_routes.lookups;
    settle();
    CLAIM(model_routes.lookups == lookups, "%u look-ups without a cause", model_routes.lookups - lookups);
    learn_loops();
}

/* ---- steps ---- */

/* The endpoints of some slot lie behind this peer. If the route to those leads into the tunnel too, it may loop. */
void paths_outer(uint8_t choice, uint8_t slot, bool remove)
{
    uint8_t life = model.present[slot], net = choice % PEERS;
    uint32_t done;
    struct udpring_prefix prefixes[2] = {
        {.family = AF_INET, .cidr = 16, .peer = model.life[life].id, .remove = remove, .ip = {OUTER_NET, net}},
        {.family = AF_INET6, .cidr = 16, .peer = model.life[life].id, .remove = remove, .ip = {OUTER_NET, net}},
    };
    model_read_all();
    if (!remove)
        model.outer[net] = life;
    else if (model.outer[net] == life)
        model.outer[net] = NOBODY;
    CLAIM(udpring_plane_prefixes(model.plane, prefixes, 2, &done) == 0 && done == 2, "%u prefixes set", done);
}

/* Whether the very next look-up gets no answer. The watch thread is idle then. */
static bool will_fail(void)
{
    if (!kernel.has_netlink || !model_routes.faults)
        return false;
    settle();
    return model_routes.faults && model_routes.fault != LOOKUP_GOOD && model_routes.fault != LOOKUP_NOISE;
}

/* A handshake message was authentic: its source is the peer's endpoint. */
void paths_authenticated(struct input *input, uint8_t slot)
{
    uint8_t choice = input_u8(input), to = input_u8(input);
    struct life *life = &model.life[model.present[slot]];
    struct udpring_address source = model_address(slot, to), local = {.family = source.family, .ip = {10, 0, 0, choice & 1}};
    if (source.family == AF_INET6 && choice & 2) {
        source.ip[0] = 0xfe;
        source.ip[1] = (uint8_t)(0x80 | slot);
        source.scope_id = 1 + (choice >> 5);
    }
    if (source.family == AF_INET6 && choice & 4)
        local = (struct udpring_address){.family = AF_INET6, .ip = {0xfe, 0x80, 0, 1}};
    life->reordered |= life->family && life->family != source.family;
    life->family = source.family;
    bool fails = will_fail();
    CLAIM(udpring_plane_authenticated(model.plane, life->id, choice, &source, choice & 8 ? NULL : &local, choice & 16 ? 0 : choice >> 5) == 0,
          "a message was authentic");
    const struct peer *peer = plane_peer(model.plane, life->id);
    if (fails && !(choice & 8) && !link_local(&source))   /* no better knowledge: the answer goes back to the source */
        CLAIM(!memcmp(&peer->source, &local, sizeof(local)), "a look-up that failed took the source away");
}

static void change_link(struct input *input)
{
    uint8_t choice = input_u8(input);
    uint32_t link = 1 + choice % (ROUTE_LINKS - 1), master = 1 + (choice >> 4) % (ROUTE_LINKS - 1);
    bool gone = choice & 8, cut = input_u8(input) == 255;
    links_cut |= cut;
    model_routes.vrf[link] = gone || master == link ? 0 : (uint8_t)master;
    netlink_tell_link(link, gone, cut);
}

void paths_step(struct input *input, uint8_t slot)
{
    uint8_t choice = input_u8(input), value = input_u8(input), version = choice >> 4 & 1, leads = value % ROUTE_KINDS;
    switch (choice & 15) {
    case 0: case 1: model_routes.to[version][slot] = leads; break;
    case 2: model_routes.from[version][slot & 1] = leads; break;
    case 3: model_routes.marked[version] = leads; break;
    case 4: model_routes.of_vrf[version][1 + value % (ROUTE_LINKS - 1)] = input_u8(input) % ROUTE_KINDS; break;
    case 5: change_link(input); return;
    case 6:
        model_routes.fault = value % LOOKUP_FAULTS;
        model_routes.faults = choice >> 4;
        return;
    case 7: model_routes.dump_fault = value % 7; return;
    case 8: netlink_overrun(); return;
    case 9:
        for (uint32_t i = 0; i < 130; i++)
            netlink_tell(0);
        break;
    case 10:
        kernel.tunnel = value & 1 ? ROUTE_TUNNEL : 0;
        kernel.tells_space = value & 2;
        break;
    case 11: kernel.bound_to = value % ROUTE_LINKS; return;
    case 12: kernel.other_tunnel = value % ROUTE_LINKS; break;
    case 13: nested_choose(slot, value); return;
    case 14: own_step(input, slot); return;
    default: break;   /* an irrelevant notice */
    }
    netlink_tell(value);
}
