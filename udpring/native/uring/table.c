#include "table.h"

#include <sys/socket.h>

#define FILE UR_TAKES_FILE
#define FD UR_TAKES_FD
#define OFF UR_TAKES_OFF
#define ADDR UR_TAKES_ADDR
#define LEN UR_TAKES_LEN
#define BITS UR_TAKES_BITS
#define PRIO UR_TAKES_PRIO
#define BUFFER UR_TAKES_BUFFER
#define INDEX UR_TAKES_INDEX
#define READS UR_READS
#define WRITES UR_WRITES
#define POLLS UR_POLLS
#define QUIET UR_QUIET
#define NOTIFIES UR_NOTIFIES

static const struct ur_row rows[] = {
#define ROW(symbol, named, code, kind, arguments, prio_bits, op_bits, kernel) \
    [UDPRING_OP_##symbol] = {.name = named, .opcode = IORING_OP_##code, .memory = UR_MEMORY_##kind, .takes = (arguments), \
                             .prio = (prio_bits), .bits = (op_bits), .since = (kernel)},
    UDPRING_OPERATIONS(ROW)
};

const struct ur_row *ur_row(uint32_t operation)
{
    return operation < UDPRING_OP_COUNT ? &rows[operation] : NULL;
}

int32_t udpring_operation_row(uint32_t operation, struct udpring_operation_row *out)
{
    const struct ur_row *row = ur_row(operation);
    if (!row)
        return -ENOENT;
    *out = (struct udpring_operation_row){
        .name = row->name,
        .opcode = row->opcode,
        .since = row->since,
        .registered_files = (row->takes & FILE) != 0,
        .skips = row->memory < UR_MEMORY_SHOTS && !(row->takes & UR_QUIET),
        .breaks = !(row->takes & UR_QUIET),
    };
    return 0;
}
