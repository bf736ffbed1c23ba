#include "mailbox.h"

#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

int mailbox_open(struct mailbox *mailbox, uint32_t capacity)
{
    uint32_t rounded = 8;
    while (rounded < capacity && rounded < (1u << 16))
        rounded <<= 1;
    *mailbox = (struct mailbox){.capacity = rounded, .fd = -1};
    mailbox->events = calloc(rounded, sizeof(*mailbox->events));
    if (!mailbox->events)
        return -ENOMEM;
    mailbox->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (mailbox->fd < 0) {
        int code = -errno;
        mailbox_close(mailbox);
        return code;
    }
    return 0;
}

void mailbox_close(struct mailbox *mailbox)
{
    if (mailbox->fd >= 0)
        close(mailbox->fd);
    for (uint32_t head = mailbox->head; head != mailbox->tail; head++)
        udpring_handshake_free(mailbox->events[head & (mailbox->capacity - 1)].handshake);   /* nobody took it */
    free(mailbox->events);
    *mailbox = (struct mailbox){.fd = -1};
}

uint32_t mailbox_depth(const struct mailbox *mailbox)
{
    return __atomic_load_n(&mailbox->tail, __ATOMIC_ACQUIRE) - __atomic_load_n(&mailbox->head, __ATOMIC_ACQUIRE);
}

struct udpring_event *mailbox_next(struct mailbox *mailbox)
{
    if (mailbox_depth(mailbox) >= mailbox->capacity)
        return NULL;
    struct udpring_event *event = &mailbox->events[mailbox->tail & (mailbox->capacity - 1)];
    memset(event, 0, offsetof(struct udpring_event, message));
    return event;
}

/* One write per wake-up of the consumer, not one per event: it clears the flag before it looks. */
void mailbox_signal(struct mailbox *mailbox)
{
    if (!__atomic_exchange_n(&mailbox->signalled, 1, __ATOMIC_SEQ_CST)) {
        uint64_t one = 1;
        if (write(mailbox->fd, &one, sizeof(one)) < 0)
            __atomic_store_n(&mailbox->signalled, 0, __ATOMIC_SEQ_CST);
    }
}

void mailbox_put(struct mailbox *mailbox)
{
    __atomic_store_n(&mailbox->tail, mailbox->tail + 1, __ATOMIC_SEQ_CST);
}

void mailbox_post(struct mailbox *mailbox)
{
    mailbox_put(mailbox);
    mailbox_signal(mailbox);
}

void mailbox_post_end(struct mailbox *mailbox, const struct udpring_event *event)
{
    if (mailbox->ends_tail == MAILBOX_ENDS)
        return;   /* reported already: each ends once */
    mailbox->ends[mailbox->ends_tail] = *event;
    __atomic_store_n(&mailbox->ends_tail, mailbox->ends_tail + 1, __ATOMIC_SEQ_CST);
    mailbox_signal(mailbox);
}

uint32_t mailbox_take(struct mailbox *mailbox, struct udpring_event *out, uint32_t max)
{
    uint64_t count;
    if (read(mailbox->fd, &count, sizeof(count)) < 0)
        count = 0;   /* after any error, the events are there */
    __atomic_store_n(&mailbox->signalled, 0, __ATOMIC_SEQ_CST);
    uint32_t taken = 0;
    uint32_t ends_tail = __atomic_load_n(&mailbox->ends_tail, __ATOMIC_SEQ_CST);
    while (taken < max && mailbox->ends_head != ends_tail)
        out[taken++] = mailbox->ends[mailbox->ends_head++];
    uint32_t tail = __atomic_load_n(&mailbox->tail, __ATOMIC_SEQ_CST);
    uint32_t head = mailbox->head;
    for (; taken < max && head != tail; head++)
        out[taken++] = mailbox->events[head & (mailbox->capacity - 1)];
    __atomic_store_n(&mailbox->head, head, __ATOMIC_RELEASE);
    if (head != tail || mailbox->ends_head != ends_tail)
        mailbox_signal(mailbox);   /* `max` was reached: wake the consumer again for the others */
    return taken;
}
