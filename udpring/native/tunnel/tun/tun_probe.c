/* Features of TUN devices on this host, found by making one for a moment: permission, offloads, several queues.
 *
 * A thread makes it in a network namespace of its own, which ends with the thread. So no other program sees an interface come
 * and go. Without the right to make a namespace, the device is made in that of the caller. */
#include "../../base.h"

#include <pthread.h>
#include <sched.h>

#include "../abi.h"

#include "tun.h"

/* Owner and freed: udpring_tun_probe(), on its stack. Thread: first the probing one, after it has ended the caller. */
struct attempt {
    struct udpring_tun_facts *facts;
    struct udpring_reason *why;
    int code;
};

static int open_any(struct tun *tun, struct udpring_tun_facts *facts, struct udpring_reason *why)
{
    int code = tun_open(tun, "udpring%d", 0, true, true, why);
    if (code == 0) {
        facts->multi_queue = 1;
        return 0;
    }
    struct udpring_reason single;
    if (tun_open(tun, "udpring%d", 0, true, false, &single) == 0) {
        facts->queues_why = *why;
        return 0;
    }
    return code;   /* the words of the first attempt */
}

static void *attempt(void *argument)
{
    struct attempt *attempt = argument;
    struct udpring_tun_facts *facts = attempt->facts;
    struct tun first, second;
    facts->unseen = unshare(CLONE_NEWNET) == 0;
    attempt->code = open_any(&first, facts, attempt->why);
    if (attempt->code)
        return NULL;
    facts->offloads = first.offloads;
    if (facts->multi_queue) {
        if (tun_open_queue(&second, &first, &facts->queues_why) == 0) {
            int code = tun_steer(&first);
            facts->steered = code == 0;
            if (code)
                ur_fail(&facts->steer_why, code, "no eBPF program may choose the queue: %s", strerror(-code));
            tun_close(&second);
        } else {
            facts->multi_queue = 0;
        }
    }
    tun_close(&first);
    return NULL;
}

int32_t udpring_tun_probe(struct udpring_tun_facts *facts, struct udpring_reason *why)
{
    struct attempt tried = {.facts = facts, .why = why, .code = -EAGAIN};
    pthread_t thread;
    memset(facts, 0, sizeof(*facts));
    int code = pthread_create(&thread, NULL, attempt, &tried);
    if (code)
        return ur_fail(why, -code, "a thread to try it cannot be started: %s", strerror(code));
    pthread_join(thread, NULL);
    return tried.code;
}
