#include "peer.h"

#include "../../secret.h"

static const struct key_limits limits[UDPRING_CIPHER_COUNT] = {
    [UDPRING_CIPHER_CHACHA20_POLY1305] = { WG_REKEY_AFTER_MESSAGES, WG_REJECT_AFTER_MESSAGES, UINT64_MAX, UINT64_MAX },
    [UDPRING_CIPHER_AES_256_GCM] = { GCM_REKEY_AFTER_MESSAGES, GCM_REJECT_AFTER_MESSAGES, GCM_REKEY_AFTER_BLOCKS,
                                     GCM_REJECT_AFTER_BLOCKS },
};
static const uint32_t data_types[UDPRING_CIPHER_COUNT] = {
    [UDPRING_CIPHER_CHACHA20_POLY1305] = WG_TYPE_DATA,
    [UDPRING_CIPHER_AES_256_GCM] = WG_TYPE_DATA | WG_MARK_AES_256_GCM,
};

int keypair_new(struct keypair **made, uint32_t workers, const struct keypair_spec *spec)
{
    const struct aead_impl *aead = aead_chosen(spec->cipher);
    if (!aead)
        return -ENOTSUP;
    struct keypair *keypair = secret_new(sizeof(*keypair));
    if (!keypair)
        return -ENOMEM;
    pthread_mutex_init(&keypair->window_lock, NULL);
    for (uint32_t i = 0; i < workers; i++) {
        int error = aead->key_new(&keypair->sending[i], spec->keys, true);
        if (!error)
            error = aead->key_new(&keypair->receiving[i], spec->keys + 32, false);
        if (error) {
            keypair_free(keypair, NULL);
            return error;
        }
    }
    keypair->limits = limits[spec->cipher];
    keypair->data_type = data_types[spec->cipher];
    keypair->local_index = spec->local_index;
    keypair->remote_index = spec->remote_index;
    keypair->initiator = spec->initiator;
    keypair->may_send = true;
    keypair->birth_ns = spec->birth_ns;
    replay_reset(&keypair->window);
    *made = keypair;
    return 0;
}

static void key_free(struct aead_key *key)
{
    if (key)
        key->impl->key_free(key);
}

void keypair_free(struct keypair *keypair, struct index_table *indices)
{
    if (!keypair)
        return;
    if (indices)
        index_table_remove(indices, keypair->local_index);
    for (uint32_t i = 0; i < WORKERS_MAX; i++) {
        key_free(keypair->sending[i]);
        key_free(keypair->receiving[i]);
    }
    pthread_mutex_destroy(&keypair->window_lock);
    secret_free(keypair, sizeof(*keypair));
}

void peer_keypair_add(struct peer *peer, struct keypair *keypair, struct index_table *indices)
{
    if (keypair->initiator) {
        if (peer->next) {
            /* The peer's own handshake had given us a key that it never confirmed: it may still send on that one. */
            keypair_free(peer->previous, indices);
            keypair_free(peer->current, indices);
            peer->previous = peer->next;
            peer->next = NULL;
        } else {
            keypair_free(peer->previous, indices);
            peer->previous = peer->current;
        }
        peer->current = keypair;
    } else {
        keypair_free(peer->next, indices);
        keypair_free(peer->previous, indices);
        peer->previous = NULL;
        peer->next = keypair;
    }
}

void peer_keypair_confirm(struct peer *peer, struct index_table *indices)
{
    keypair_free(peer->previous, indices);
    peer->previous = peer->current;
    peer->current = peer->next;
    peer->next = NULL;
}

void peer_keypairs_erase(struct peer *peer, struct index_table *indices)
{
    keypair_free(peer->previous, indices);
    keypair_free(peer->current, indices);
    keypair_free(peer->next, indices);
    peer->previous = peer->current = peer->next = NULL;
}
