/* Several keys at once: three clients, three keys, each time any of them. It is what docs/protocol.md
 * says of several keys, beside queue.pml, which has what one queue promises: here no reply is lost.
 *
 *   spin -a several.pml && cc -O2 -DSAFETY -DCOLLAPSE -o pan pan.c && ./pan
 *   spin -DLIVENESS -a several.pml && cc -O2 -DCOLLAPSE -DNFAIR=4 -o pan pan.c && ./pan -a -f
 *
 * with -DCYCLES=2 (of each client), -DLAPSES=1 (leases that end by themselves), -DBREAKS=1 (entries
 * that an operator deletes), -DGIVE_UPS=1 (waits that end without their turn).
 *
 * That nobody waits for ever in a circle is what spin looks for by itself: an invalid end state.
 *
 * Broken on purpose, to see that it is noticed: -DTWO_STEPS puts the entries one after the other, in
 * any order; -DONE_WILL_DO holds when it is first in one of its queues; -DKEEPS_THE_REST leaves the
 * other entries when one is lost.
 */
#ifndef CYCLES
#define CYCLES 2
#endif
#ifndef LAPSES
#define LAPSES 1
#endif
#ifndef BREAKS
#define BREAKS 1
#endif
#ifndef GIVE_UPS
#define GIVE_UPS 1
#endif
#define CLIENTS 3
#define KEYS 3

byte revision = 0;               /* of the last transaction that put entries */
byte place[CLIENTS * KEYS] = 0;  /* of each client's entry in each queue; 0: there is none */
byte want[CLIENTS] = 0;          /* its keys, a bit for each */
bool believes[CLIENTS] = false;  /* would say that it holds */
bool waits[CLIENTS] = false;     /* stands in its queues */
bool broken[CLIENTS] = false;    /* an entry of it was deleted, which it may not know yet */
bool joins[CLIENTS] = false;     /* has put some of its entries: with TWO_STEPS alone */
byte lapses = 0, breaks = 0, give_ups = 0;

#define P(c, k) place[(c) * KEYS + (k)]
#define WANTS(c, k) (want[c] & (1 << (k)))
#define AHEAD(c, d, k) (P(d, k) && P(d, k) < P(c, k))
#define FIRST(c, k) (P(c, k) && !AHEAD(c, (c + 1) % 3, k) && !AHEAD(c, (c + 2) % 3, k))
#ifdef ONE_WILL_DO
#define TURN(c) ((WANTS(c, 0) && FIRST(c, 0)) || (WANTS(c, 1) && FIRST(c, 1)) || \
                 (WANTS(c, 2) && FIRST(c, 2)))
#else
#define TURN(c) ((!WANTS(c, 0) || FIRST(c, 0)) && (!WANTS(c, 1) || FIRST(c, 1)) && \
                 (!WANTS(c, 2) || FIRST(c, 2)))
#endif
#define FREE(k) (!P(0, k) && !P(1, k) && !P(2, k))
#define ALL_FREE(c) ((!WANTS(c, 0) || FREE(0)) && (!WANTS(c, 1) || FREE(1)) && \
                     (!WANTS(c, 2) || FREE(2)))
#define ALL_THERE(c) ((!WANTS(c, 0) || P(c, 0)) && (!WANTS(c, 1) || P(c, 1)) && \
                      (!WANTS(c, 2) || P(c, 2)))
#define NONE_THERE(c) (!P(c, 0) && !P(c, 1) && !P(c, 2))

/* What etcd does, each in one step. */
inline put(c, k) { if :: WANTS(c, k) -> P(c, k) = revision :: else fi }
inline put_all(c) { revision++; put(c, 0); put(c, 1); put(c, 2) }
inline end_all(c) {
    P(c, 0) = 0; P(c, 1) = 0; P(c, 2) = 0;
    /* Only the order of revisions matters: fewer states. */
    if :: FREE(0) && FREE(1) && FREE(2) -> revision = 0 :: else fi
}

/* One client: it tries, or joins all queues and waits for its turn in each; then gives all back. */
proctype client(byte c) {
    byte cycle = 0, left;
    do
    :: cycle < CYCLES ->
        atomic { cycle++; select(left : 1 .. 7); want[c] = left; left = 0 };
#ifdef TWO_STEPS
        atomic { joins[c] = true; left = want[c] };
        do
        :: atomic { left & 1 -> revision++; put(c, 0); left = left - 1 }
        :: atomic { left & 2 -> revision++; put(c, 1); left = left - 2 }
        :: atomic { left & 4 -> revision++; put(c, 2); left = left - 4 }
        :: atomic { left == 0 -> waits[c] = true; joins[c] = false; break }
        od;
#else
        if
        :: atomic { ALL_FREE(c) -> put_all(c); believes[c] = true; goto holds } /* one try */
        :: atomic { !ALL_FREE(c) -> goto again }   /* refused, and nothing is written */
        :: atomic { put_all(c); waits[c] = true }
        fi;
#endif
        if
        :: atomic { TURN(c) -> waits[c] = false; believes[c] = true }
        :: atomic { !ALL_THERE(c) -> waits[c] = false; goto lost }
        :: atomic { give_ups < GIVE_UPS -> give_ups++; waits[c] = false; end_all(c); goto again }
        fi;
holds:
        if
        :: atomic { believes[c] = false; if :: ALL_THERE(c) -> end_all(c); goto again :: else fi }
        :: atomic { !ALL_THERE(c) -> believes[c] = false } /* it learns of it */
        fi;
lost:
#ifdef KEEPS_THE_REST
        skip;
#else
        atomic { end_all(c) }; /* it revokes the lease */
#endif
again:  atomic { broken[c] = false; want[c] = 0 }
    :: else -> break
    od
}

/* A lease ends by itself: all entries under it at once. An operator deletes one. */
active proctype world() {
    byte c, k;
end: do
    :: atomic { lapses < LAPSES -> lapses++; select(c : 0 .. 2); believes[c] = false; end_all(c);
        c = 0 }
    :: atomic {
        breaks < BREAKS -> breaks++; select(c : 0 .. 2); select(k : 0 .. 2);
        if :: P(c, k) -> P(c, k) = 0; broken[c] = true :: else fi;
        c = 0; k = 0 }
    od
}

/* What is to hold at any moment: nobody shares a key, and each has all of its entries or none. Who
 * was broken into may not know it yet. */
#define BOTH(c, d) (believes[c] && believes[d] && (want[c] & want[d]) && !broken[c] && !broken[d])
#define WHOLE(c) (broken[c] || joins[c] || ALL_THERE(c) || NONE_THERE(c))
#define ALL_RIGHT (!BOTH(0, 1) && !BOTH(0, 2) && !BOTH(1, 2) && WHOLE(0) && WHOLE(1) && WHOLE(2))
active proctype monitor() {
end: atomic { !ALL_RIGHT -> assert(ALL_RIGHT) }
}

init {
    atomic { run client(0); run client(1); run client(2) }
}

/* Whoever waits comes to hold, or loses its place. To be asked with weak fairness. */
#ifdef LIVENESS
ltl served { [] (waits[0] -> <> !waits[0]) }
#endif
