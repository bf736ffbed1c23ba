#include "../base.h"
#include "abi.h"

static const char *const names[] = {
    [UDPRING_DROP_TOO_SHORT] = "too_short",
    [UDPRING_DROP_BAD_TYPE] = "bad_type",
    [UDPRING_DROP_TRUNCATED] = "truncated",
    [UDPRING_DROP_BAD_MAC1] = "bad_mac1",
    [UDPRING_DROP_BAD_MAC2] = "bad_mac2",
    [UDPRING_DROP_NO_IDENTITY] = "no_identity",
    [UDPRING_DROP_BAD_COOKIE] = "bad_cookie",
    [UDPRING_DROP_UNKNOWN_INDEX] = "unknown_index",
    [UDPRING_DROP_CIPHER_MISMATCH] = "cipher_mismatch",
    [UDPRING_DROP_KEY_EXPIRED] = "key_expired",
    [UDPRING_DROP_REPLAYED] = "replayed",
    [UDPRING_DROP_UNAUTHENTICATED] = "unauthenticated",
    [UDPRING_DROP_BAD_INNER] = "bad_inner",
    [UDPRING_DROP_SPOOFED] = "spoofed",
    [UDPRING_DROP_ECN] = "ecn",
    [UDPRING_DROP_TUN_FULL] = "tun_full",
    [UDPRING_DROP_MAILBOX_FULL] = "mailbox_full",
    [UDPRING_DROP_FLOODED] = "flooded",
    [UDPRING_DROP_NO_PEER] = "no_peer",
    [UDPRING_DROP_NO_ENDPOINT] = "no_endpoint",
    [UDPRING_DROP_STAGING_FULL] = "staging_full",
    [UDPRING_DROP_HANDSHAKE_FAILED] = "handshake_failed",
    [UDPRING_DROP_BAD_OUTER] = "bad_outer",
    [UDPRING_DROP_SEND_FAILED] = "send_failed",
    [UDPRING_DROP_ROUTING_LOOP] = "routing_loop",
};
_Static_assert(UR_ARRAY_LENGTH(names) == UDPRING_DROP_COUNT, "each drop reason has a name");
_Static_assert(UDPRING_DROP_COUNT <= UR_ARRAY_LENGTH(((struct udpring_plane_stats *)0)->drops), "each has a counter");

const char *udpring_drop_name(int32_t reason)
{
    return reason >= 0 && reason < UDPRING_DROP_COUNT ? names[reason] : NULL;
}
