/* WireGuard's wire format and limits as the data plane needs them. Source: WireGuard whitepaper, sections 5.4 and 6.
 * For AES-256-GCM docs/aes-256-gcm.md. */
#ifndef UDPRING_TUNNEL_MESSAGES_H
#define UDPRING_TUNNEL_MESSAGES_H
#include "../base.h"

#include <endian.h>

enum {
    WG_TYPE_INITIATION = 1,
    WG_TYPE_RESPONSE = 2,
    WG_TYPE_COOKIE_REPLY = 3,
    WG_TYPE_DATA = 4,
};
enum {
    WG_INITIATION_BYTES = 148,
    WG_RESPONSE_BYTES = 92,
    WG_COOKIE_REPLY_BYTES = 64,
    WG_DATA_HEADER = 16,        /* type, receiver index, counter */
    WG_TAG = 16,
    WG_PADDING = 16,
    WG_DATA_MIN = WG_DATA_HEADER + WG_TAG,   /* a keepalive */
};

/* Under AES-256-GCM a message's type word has this on top of its type: bytes 1 to 3, which WireGuard reserves and sends as
 * zeros, are 'u' 'A' 'G'. Implementations of WireGuard know no such type. wireguard/cipher.py has the same. */
#define WG_MARK_AES_256_GCM 0x47417500u

#define WG_REKEY_AFTER_MESSAGES (1ull << 60)
/* 2^64 - 2^13 - 1: no packet with this counter or a greater one is sent or accepted (whitepaper 6.1). */
#define WG_REJECT_AFTER_MESSAGES (UINT64_MAX - (1ull << 13))
/* The same for AES-256-GCM, and how many blocks of 16 bytes one key seals. */
#define GCM_REKEY_AFTER_MESSAGES (1ull << 30)
#define GCM_REJECT_AFTER_MESSAGES (1ull << 31)
#define GCM_REKEY_AFTER_BLOCKS (1ull << 34)
#define GCM_REJECT_AFTER_BLOCKS (1ull << 35)
#define WG_REKEY_AFTER_TIME_NS (120ull * 1000000000u)
#define WG_REJECT_AFTER_TIME_NS (180ull * 1000000000u)
/* REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT: an initiator that only receives asks for a new key then. */
#define WG_REKEY_ON_RECEIVE_NS (165ull * 1000000000u)

struct wg_data_header {
    uint32_t type;              /* little endian, with three reserved bytes: zero, or the marking of the cipher */
    uint32_t receiver;          /* little endian */
    uint64_t counter;           /* little endian */
};
_Static_assert(sizeof(struct wg_data_header) == WG_DATA_HEADER, "wire format");

static inline uint32_t wg_le32(const uint8_t *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof(value));
    return le32toh(value);
}

static inline uint64_t wg_le64(const uint8_t *bytes)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof(value));
    return le64toh(value);
}
#endif
