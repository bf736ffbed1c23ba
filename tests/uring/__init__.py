"""Tests of the ring layer: ``udpring/native/uring`` and ``udpring/uring``.

An earlier implementation had 24 behaviours. This list says where each is tested. Behaviours 17 to 22 and 24
concern receive pools and send batches, and ``tests/udp`` has their tests.

 1  sizes of the ABI               _Static_assert in kernel.h; test_setup: against the system's header
 2  entries: default, least, clamp test_setup
 3  flag sets in order             test_setup: each set denied in turn
 4  ENOMEM halves, set remembered  test_setup: a filter refuses large sizes, in set-up and in mmap
 5  bound on kernel workers        test_setup: refused, recorded, not fatal
 6  one mapping or several         test_setup
 7  EINTR                          test_queue: a handler runs, and the wait continues
 8  a full queue makes room        test_queue
 9  deep copies until completion   test_operations: payload changed at once, sends that wait for room
10  user_data grows from 1         superseded: kind, generation and slot; never 0, no two alike (test_queue)
11  completions for other waiters  superseded: one waiter, and completions carry tickets. Completions
                                   without a ticket are counted and skipped (test_queue)
12  recvmsg gives lengths, flags   test_operations: address, control messages, truncation
13  a result for each of a batch   test_operations, test_queue: errors in the middle
14  a failing batch leaves nothing test_queue
15  the single-iovec rule          superseded: the ring makes its own header and vector
16  a bound on waiting             superseded: waits have time-outs (test_queue), a close has a bound
                                   (test_close)
23  close twice, use after close   test_close
"""
