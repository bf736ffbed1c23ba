/* Groups of provided buffers of the owned ring. Three kinds of memory:
 *   COPIES, VIEWS   a buffer ring (bufring.c). The kernel fills its buffers, and settle or the last view returns them.
 *   SENDS           a buffer ring with data of the program, which the kernel sends in order.
 *   LEGACY          no ring: operations give the buffers to the kernel, as on Linux 5.7 to 5.18. */
#include <stdlib.h>
#include <sys/mman.h>

#include "owned.h"

static struct ur_group *free_group(struct udpring_ring *self)
{
    for (uint32_t i = 0; i < UR_GROUPS_MAX; i++)
        if (!self->groups[i].memory)
            return &self->groups[i];
    return NULL;
}

const struct ur_group *ur_group_of(const struct udpring_ring *self, uint32_t id)
{
    for (uint32_t i = 0; i < self->group_count; i++)
        if (self->groups[i].memory && self->groups[i].ring.group == id)
            return &self->groups[i];
    return NULL;
}

void ur_group_recycle(struct ur_group *group, uint16_t id)
{
    if (group->kind == UDPRING_GROUP_LEGACY)
        group->given[id] = 0;
    else
        ur_bufring_add(&group->ring, group->memory + (size_t)id * group->bytes, group->bytes, id);
}

/* Makes the kernel's side of a group. */
static int open_group(struct udpring_ring *self, struct ur_group *fresh, uint16_t number, uint32_t count, struct udpring_reason *why)
{
    if (fresh->kind != UDPRING_GROUP_LEGACY)
        return ur_bufring_open(&fresh->ring, &self->ring, number, count, why);
    if (!count || count > IORING_MAX_PBUF_ENTRIES)
        return ur_fail(why, -EINVAL, "a group of %u buffers: 1 to %u", count, IORING_MAX_PBUF_ENTRIES);
    fresh->given = calloc(count, 1);
    fresh->ring = (struct ur_bufring){.count = count, .group = number};
    return fresh->given ? 0 : ur_fail(why, -ENOMEM, "%u buffers: no memory", count);
}

int32_t udpring_ring_provide(struct udpring_ring *self, uint32_t group, uint32_t count, uint32_t bytes, uint32_t kind,
                             uint8_t *memory, struct udpring_reason *why)
{
    struct ur_group *fresh = free_group(self);
    if (!fresh)
        return ur_fail(why, -ENOBUFS, "a ring has at most %d buffer groups", UR_GROUPS_MAX);
    if (group > UINT16_MAX || !bytes || (uint64_t)count * bytes > UDPRING_OPERATION_BYTES_MAX || kind > UDPRING_GROUP_LEGACY ||
        (kind == UDPRING_GROUP_VIEWS && !memory))
        return ur_fail(why, -EINVAL, "group %u with %u buffers of %u bytes: groups go to 65535, memory to 1 GiB", group, count,
                       bytes);
    if (ur_group_of(self, group))
        return ur_fail(why, -EEXIST, "buffer group %u is registered already: use another", group);
    memset(fresh, 0, sizeof(*fresh));
    fresh->kind = (uint8_t)kind;
    int code = open_group(self, fresh, (uint16_t)group, count, why);
    if (code)
        return code;
    fresh->bytes = bytes;
    if (kind != UDPRING_GROUP_VIEWS)
        memory = mmap(NULL, (size_t)count * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        ur_bufring_close(&fresh->ring, &self->ring);
        free(fresh->given);
        return ur_fail(why, -ENOMEM, "%u buffers of %u bytes: no memory", count, bytes);
    }
    fresh->memory = memory;
    fresh->mapped = (size_t)count * bytes;
    if (kind <= UDPRING_GROUP_VIEWS) {
        for (uint32_t id = 0; id < count; id++)
            ur_group_recycle(fresh, (uint16_t)id);
        ur_bufring_publish(&fresh->ring);
    }
    uint32_t used = (uint32_t)(fresh - self->groups) + 1;
    if (used > self->group_count)
        self->group_count = used;
    return 0;
}

int32_t udpring_ring_recycle(struct udpring_ring *self, uint32_t group, const uint16_t *ids, uint32_t count)
{
    int code = ur_ring_usable(&self->ring);
    if (code && code != -EBADFD)
        return code;
    struct ur_group *found = (struct ur_group *)ur_group_of(self, group);
    if (!found || found->kind != UDPRING_GROUP_VIEWS)
        return -ENOENT;
    for (uint32_t i = 0; i < count; i++)
        if (ids[i] < found->ring.count)
            ur_group_recycle(found, ids[i]);
    ur_bufring_publish(&found->ring);
    return 0;
}

/* Whether an operation that is queued or in flight uses the group. */
static bool in_use(const struct udpring_ring *self, const struct ur_group *group)
{
    for (uint32_t i = 0; i < self->ops.count; i++) {
        const struct ur_slot *slot = &self->slots[i];
        if (ur_slot_groups(slot) && &self->groups[slot->group] == group &&
            ur_ops_find(&self->ops, ur_ops_in_flight(&self->ops, i)) >= 0)
            return true;
    }
    return false;
}

int ur_group_close(struct udpring_ring *self, uint32_t group)
{
    struct ur_group *found = (struct ur_group *)ur_group_of(self, group);
    if (!found)
        return -ENOENT;
    if (in_use(self, found) || (found->given && memchr(found->given, 1, found->ring.count)))
        return -EBUSY;
    int code = ur_bufring_close(&found->ring, &self->ring);
    if (code)
        return code;
    if (found->kind != UDPRING_GROUP_VIEWS)
        munmap(found->memory, found->mapped);
    free(found->given);
    memset(found, 0, sizeof(*found));
    return 0;
}

int32_t udpring_ring_given(struct udpring_ring *self, uint32_t group, uint8_t *given, uint32_t max)
{
    const struct ur_group *found = ur_group_of(self, group);
    if (!found || !found->given)
        return -ENOENT;
    memcpy(given, found->given, max < found->ring.count ? max : found->ring.count);
    return (int32_t)found->ring.count;
}

/* ---- sending ---- */

int32_t udpring_ring_fill(struct udpring_ring *self, uint32_t group, const uint8_t *memory, uint64_t size)
{
    int code = ur_ring_usable(&self->ring);
    if (code && code != -EBADFD)
        return code;
    struct ur_group *found = (struct ur_group *)ur_group_of(self, group);
    if (!found || found->kind != UDPRING_GROUP_SENDS)
        return -ENOENT;
    if (!size || size > found->bytes)
        return -EMSGSIZE;
    if ((uint16_t)(found->ring.tail - found->head) >= found->ring.count)
        return -ENOBUFS;
    uint16_t id = found->ring.tail & (found->ring.count - 1);
    uint8_t *buffer = found->memory + (size_t)id * found->bytes;
    memcpy(buffer, memory, size);
    ur_bufring_add(&found->ring, buffer, (uint32_t)size, id);
    ur_bufring_publish(&found->ring);
    return 0;
}

int32_t udpring_ring_unsent(struct udpring_ring *self, uint32_t group)
{
    const struct ur_group *found = ur_group_of(self, group);
    return found && found->kind == UDPRING_GROUP_SENDS ? (uint16_t)(found->ring.tail - found->head) : -ENOENT;
}

/* Asks the kernel which buffers it has sent. A result does not say it: of a failed or short send some count as sent. Only then, as
 * an operation may read its buffers after the kernel has passed them. */
static void send_ended(struct udpring_ring *self, struct ur_group *group)
{
    struct io_uring_buf_status status = {.buf_group = group->ring.group};
    group->sending = false;
    if (ur_ring_register(&self->ring, IORING_REGISTER_PBUF_STATUS, &status, 1) >= 0)
        group->head = (uint16_t)status.head;
}

/* ---- legacy groups ---- */

static void mark(struct ur_group *group, const struct ur_slot *slot, uint8_t value)
{
    memset(group->given + slot->first, value, slot->buffers);
}

void ur_group_began(struct udpring_ring *self, struct ur_slot *slot, const struct ur_request *request)
{
    struct ur_group *group = (struct ur_group *)ur_group_of(self, request->buffer);
    slot->group = (uint8_t)(group - self->groups);
    if (slot->memory == UR_MEMORY_GROUP_SEND)
        group->sending = true;
    if (slot->memory != UR_MEMORY_GIVE)
        return;
    slot->first = (uint16_t)request->off;
    slot->buffers = (uint32_t)request->fd;
    mark(group, slot, 1);
}

void ur_group_ended(struct udpring_ring *self, const struct ur_slot *slot, int32_t result)
{
    struct ur_group *group = &self->groups[slot->group];
    if (slot->memory == UR_MEMORY_GROUP_SEND)
        send_ended(self, group);
    else if (slot->memory == UR_MEMORY_GIVE && result < 0)
        mark(group, slot, 0);
    else if (slot->memory == UR_MEMORY_TAKE_BACK && result >= 0 && !in_use(self, group))
        memset(group->given, 0, group->ring.count);
}

int ur_group_check(struct udpring_ring *self, const struct ur_request *request)
{
    const struct ur_group *group = ur_group_of(self, request->buffer);
    const struct ur_row *row = request->row;
    bool sends = row->memory == UR_MEMORY_GROUP_SEND, legacy = row->memory == UR_MEMORY_GIVE || row->memory == UR_MEMORY_TAKE_BACK;
    if (!group)
        return ur_fail(&self->why, -ENOENT, "buffer group %u was never provided", request->buffer);
    if (sends != (group->kind == UDPRING_GROUP_SENDS) || (legacy && !group->given))
        return ur_fail(&self->why, -EINVAL, "%s: buffer group %u is of another kind", row->name, request->buffer);
    if (sends && group->sending)
        return ur_fail(&self->why, -EBUSY, "buffer group %u: an operation is sending it, and goes on while there is data",
                       request->buffer);
    if (sends && request->prio & IORING_RECVSEND_BUNDLE && request->flags & (IOSQE_ASYNC | IOSQE_IO_DRAIN))
        return ur_fail(&self->why, -EINVAL, "%s: the kernel cancels a bundle with ASYNC or DRAIN: send one buffer", row->name);
    if (row->memory == UR_MEMORY_TAKE_BACK)
        return request->fd == (int32_t)group->ring.count ? 0 : -EINVAL;
    if (row->memory != UR_MEMORY_GIVE)
        return 0;
    uint64_t count = (uint32_t)request->fd;
    if (!count || request->off >= group->ring.count || count > group->ring.count - request->off)
        return ur_fail(&self->why, -ERANGE, "%u buffers from %llu on: group %u has %u", (uint32_t)count,
                       (unsigned long long)request->off, request->buffer, group->ring.count);
    if (memchr(group->given + request->off, 1, count))
        return ur_fail(&self->why, -EBUSY, "buffer group %u: the kernel has some of these buffers already", request->buffer);
    return 0;
}
