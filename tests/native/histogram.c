/* Histograms by themselves. */
#include "tunnel/worker/histogram.h"

#include "abi.h"

void udpring_histogram_count(struct udpring_histogram *histogram, uint64_t size)
{
    histogram_count(histogram, size);
}
