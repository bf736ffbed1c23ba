/* mac1, mac2 and cookies by themselves. */
#include "tunnel/crypto/mac.h"

#include <stdlib.h>

#include "abi.h"

struct udpring_mac {
    struct mac_engine engine;
};

struct udpring_mac *udpring_mac_open(struct udpring_reason *why)
{
    struct udpring_mac *mac = malloc(sizeof(*mac));
    if (mac && mac_engine_open(&mac->engine, why)) {
        free(mac);
        mac = NULL;
    }
    return mac;
}

void udpring_mac_close(struct udpring_mac *mac)
{
    if (mac)
        mac_engine_close(&mac->engine);
    free(mac);
}

int32_t udpring_mac_check1(struct udpring_mac *mac, const uint8_t *mac1_key, const uint8_t *message, uint32_t length)
{
    return mac_check1(&mac->engine, mac1_key, message, length);
}

int32_t udpring_mac_check2(struct udpring_mac *mac, const uint8_t *cookie, const uint8_t *message, uint32_t length)
{
    return mac_check2(&mac->engine, cookie, message, length);
}

int32_t udpring_mac_cookie(struct udpring_mac *mac, const uint8_t *secret, const uint8_t *ip, uint32_t ip_length,
                           uint16_t port, uint8_t *cookie)
{
    return mac_cookie(&mac->engine, secret, ip, ip_length, port, cookie);
}
