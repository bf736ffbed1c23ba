/* Cookie replies, each by a sealer of its own. */
#include "tunnel/crypto/cookie_reply.h"

#include "abi.h"

int32_t udpring_cookie_reply(const uint8_t *key, const uint8_t *nonce, const uint8_t *sender, const uint8_t *mac1,
                             const uint8_t *cookie, uint8_t *reply)
{
    struct cookie_sealer sealer;
    int result = cookie_sealer_open(&sealer, NULL);
    if (result == 0)
        result = cookie_reply_make(&sealer, key, nonce, sender, mac1, cookie, reply);
    cookie_sealer_close(&sealer);
    return result;
}
