/* Reads the peers of a UAPI set request, as `wg` writes them. It knows the plain lines alone and judges nothing: a block with any
 * other line is left to Python's parser, which has the rules and the words for what is wrong (udpring/tunnel/uapi.py). */
#include "../../base.h"

#include <arpa/inet.h>

#include "../abi.h"

#define LINE_MAX 4096
#define ADDRESS_MAX 46       /* INET6_ADDRSTRLEN */
#define KEY_BYTES 32

static const char begin[] = "public_key=";

struct text {
    const uint8_t *at, *end;
};

/* Whether the text begins so, which is then behind it. */
static bool takes(struct text *text, const char *word)
{
    size_t length = strlen(word);
    if ((size_t)(text->end - text->at) < length || memcmp(text->at, word, length) != 0)
        return false;
    text->at += length;
    return true;
}

static int hex_digit(uint8_t digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

static bool read_key(const struct text *value, uint8_t *key)
{
    if (value->end - value->at != 2 * KEY_BYTES)
        return false;
    for (unsigned i = 0; i < KEY_BYTES; i++) {
        int high = hex_digit(value->at[2 * i]), low = hex_digit(value->at[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        key[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

/* Without leading zeros, at most 65535. */
static bool read_number(const struct text *value, uint32_t *number)
{
    ptrdiff_t digits = value->end - value->at;
    if (digits < 1 || digits > 5 || (value->at[0] == '0' && digits > 1))
        return false;
    *number = 0;
    for (const uint8_t *at = value->at; at < value->end; at++) {
        if (*at < '0' || *at > '9')
            return false;
        *number = *number * 10 + (uint32_t)(*at - '0');
    }
    return *number <= UINT16_MAX;
}

static bool read_address(const uint8_t *at, size_t length, uint16_t *family, uint8_t ip[16])
{
    char text[ADDRESS_MAX];
    if (length >= sizeof(text))
        return false;
    memcpy(text, at, length);
    text[length] = 0;
    *family = memchr(text, ':', length) ? AF_INET6 : AF_INET;
    return strlen(text) == length && inet_pton(*family, text, ip) == 1;
}

static bool read_endpoint(const struct text *value, struct udpring_address *endpoint)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    const uint8_t *colon = memrchr(value->at, ':', (size_t)(value->end - value->at));
    if (!colon || colon == value->at)
        return false;
    struct text port = {colon + 1, value->end}, host = {value->at, colon};
    uint32_t number;
    if (!read_number(&port, &number) || !number)
        return false;
    bool bracketed = host.at[0] == '[' && host.end[-1] == ']' && host.end - host.at > 2;
    host.at += bracketed;
    host.end -= bracketed;
    endpoint->port = (uint16_t)number;
    if (!read_address(host.at, (size_t)(host.end - host.at), &endpoint->family, endpoint->ip))
        return false;
    bool v6 = endpoint->family == AF_INET6;
    return bracketed == v6 && !(v6 && memcmp(endpoint->ip, mapped, sizeof(mapped)) == 0);
}

static void clear_host_bits(struct udpring_prefix *prefix)
{
    unsigned bytes = prefix->family == AF_INET ? 4 : 16;
    for (unsigned i = 0; i < bytes; i++) {
        int kept = prefix->cidr - (int)(8 * i);
        if (kept < 8)
            prefix->ip[i] &= kept <= 0 ? 0 : (uint8_t)(0xff00 >> kept);
    }
}

static bool read_prefix(const struct text *value, struct udpring_prefix *prefix)
{
    *prefix = (struct udpring_prefix){.remove = UDPRING_PREFIX_ADD, .peer = UDPRING_PEER_NONE};
    const uint8_t *slash = memchr(value->at, '/', (size_t)(value->end - value->at));
    if (!slash || !read_address(value->at, (size_t)(slash - value->at), &prefix->family, prefix->ip))
        return false;
    struct text bits = {slash + 1, value->end};
    uint32_t cidr;
    if (!read_number(&bits, &cidr) || cidr > (prefix->family == AF_INET ? 32 : 128))
        return false;
    prefix->cidr = (uint8_t)cidr;
    clear_host_bits(prefix);
    return true;
}

/* Whether this is the first line of its kind in the block. A second one may have effects of its own. */
static bool first(struct udpring_peer_block *block, uint32_t flag)
{
    bool there = block->flags & flag;
    block->flags |= flag;
    return !there;
}

static bool read_setting(struct text line, struct udpring_peer_blocks *out, struct udpring_peer_block *block)
{
    uint32_t number;
    if (takes(&line, "allowed_ip="))
        return block->first_prefix + block->prefix_count < UDPRING_BLOCK_PREFIXES_MAX &&
               read_prefix(&line, &out->prefixes[block->first_prefix + block->prefix_count++]);
    if (takes(&line, "endpoint="))
        return first(block, UDPRING_BLOCK_ENDPOINT) && read_endpoint(&line, &block->endpoint);
    if (takes(&line, "preshared_key="))
        return first(block, UDPRING_BLOCK_PRESHARED_KEY) && read_key(&line, block->preshared_key);
    if (takes(&line, "persistent_keepalive_interval="))
        return first(block, UDPRING_BLOCK_KEEPALIVE) && read_number(&line, &block->keepalive);
    if (takes(&line, "replace_allowed_ips=true"))
        return line.at == line.end && !block->prefix_count && first(block, UDPRING_BLOCK_REPLACE);
    return takes(&line, "protocol_version=") && read_number(&line, &number) && number == 1;
}

enum line { LINE_WHOLE, LINE_UNFINISHED, LINE_TOO_LONG };

/* The next line of the text, without its newline. */
static enum line next_line(struct text *text, struct text *line)
{
    size_t left = (size_t)(text->end - text->at);
    const uint8_t *newline = memchr(text->at, '\n', left < LINE_MAX + 1 ? left : LINE_MAX + 1);
    if (!newline)
        return left > LINE_MAX ? LINE_TOO_LONG : LINE_UNFINISHED;
    *line = (struct text){text->at, newline};
    text->at = newline + 1;
    return LINE_WHOLE;
}

/* Whether the block ends here. *more: not known yet. */
static bool ends(const struct text *text, uint32_t *more)
{
    size_t left = (size_t)(text->end - text->at), length = sizeof(begin) - 1;
    if (left && text->at[0] == '\n')
        return true;
    if (memcmp(text->at, begin, left < length ? left : length) != 0)
        return false;
    *more = left < length;
    return !*more;
}

/* One block, and the text is behind it. False: it is not plain, or not whole. */
static bool read_block(struct text *text, struct udpring_peer_blocks *out, struct udpring_peer_block *block, uint32_t *lines)
{
    struct text rest = *text, line;
    *block = (struct udpring_peer_block){.first_prefix = out->prefix_count};
    *lines = 0;
    do {
        enum line whole = next_line(&rest, &line);
        out->more = whole == LINE_UNFINISHED;
        if (whole != LINE_WHOLE)
            return false;
        bool plain = *lines ? read_setting(line, out, block) : takes(&line, begin) && read_key(&line, block->public_key);
        if (!plain)
            return false;
        ++*lines;
    } while (!ends(&rest, &out->more) && !out->more);
    if (out->more)
        return false;
    *text = rest;
    return true;
}

void udpring_peer_blocks_read(const uint8_t *text, uint32_t length, struct udpring_peer_blocks *out)
{
    struct text rest = {text, text + length};
    out->count = out->prefix_count = out->bytes = out->lines = out->more = 0;
    while (out->count < UDPRING_BLOCKS_MAX) {
        struct udpring_peer_block *block = &out->blocks[out->count];
        uint32_t lines;
        if (!read_block(&rest, out, block, &lines)) {
            explicit_bzero(block, sizeof(*block));
            break;
        }
        out->count++;
        out->prefix_count += block->prefix_count;
        out->lines += lines;
    }
    out->bytes = (uint32_t)(rest.at - text);
}
