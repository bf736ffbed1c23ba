/* A device that loses trains, or mangles them (-DMANGLE): for the egress of clsact (tc-bpf(8)). Single datagrams pass. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#ifdef MANGLE
enum { ETHERNET = 14, IPV4 = 20, IPV6 = 40, UDP_PORT = 2, IPV6_TYPE = 0xdd86 };

static long (*const store_bytes)(struct __sk_buff *skb, __u32 offset, const void *from, __u32 length, __u64 flags) = (void *)9;

/* To the discard port, where nobody listens. */
static int spoil(struct __sk_buff *skb)
{
    const __u8 port[2] = {0, 9};
    store_bytes(skb, ETHERNET + (skb->protocol == IPV6_TYPE ? IPV6 : IPV4) + UDP_PORT, port, sizeof(port), 0);
    return TC_ACT_OK;
}
#else
static int spoil(struct __sk_buff *skb)
{
    (void)skb;
    return TC_ACT_STOLEN;   /* the sender sees no error */
}
#endif

__attribute__((section("classifier"), used)) int classify(struct __sk_buff *skb)
{
    return skb->gso_segs > 1 ? spoil(skb) : TC_ACT_OK;
}
