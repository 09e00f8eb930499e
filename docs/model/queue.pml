/* The queue of one lock: clients, an etcd with leases, replies that are lost, requests that arrive
 * late. It is what docs/protocol.md says, with as little else as possible.
 *
 *   spin -a queue.pml && cc -O2 -DSAFETY -DCOLLAPSE -o pan pan.c && ./pan
 *   spin -DLIVENESS -a queue.pml && cc -O2 -DCOLLAPSE -DNFAIR=3 -o pan pan.c && ./pan -a -f
 *
 * with -DCLIENTS=2 (or 3), -DLOSSES=2 (replies that may be lost, in all), -DLAPSES=1 (leases that
 * may end by themselves while their client is silent).
 *
 * In the model                            in docs/protocol.md
 *   place[c], the number of its entry       create_revision: the oldest entry holds the lock
 *   lease[c]                                "Entries": one lease for each client; what is put under
 *                                           one that ended is refused
 *   put, gone                               "Waiting" 2, "unlock()": the transactions
 *   late_put[c], late_delete[c]             "Doubt": copies without a reply, applied later or never
 *   believes[c]                             "Time": a client believes until its deadline, which is
 *                                           before its lease ends: so lapse() ends the belief first
 *   revoke before report                    "Doubt": a try that failed is undone by revoking its
 *                                           lease; without an answer to that: uncertain[c]
 *
 * Broken on purpose, to see that it is noticed: -DNO_REVOKE reports a failure without revoking;
 * -DNO_GUARD releases without comparing create_revision; -DREUSE keeps a lease in doubt for the
 * next cycle; -DBARGE does not look who is older; -DLATE_DEADLINE believes longer than the lease lives;
 * -DNO_EXPIRY keeps what was left in doubt for ever.
 */
#ifndef CLIENTS
#define CLIENTS 2
#endif
#ifndef LOSSES
#define LOSSES 2
#endif
#ifndef LAPSES
#define LAPSES 1
#endif
#ifndef CYCLES
#define CYCLES 2
#endif

byte revision = 0;              /* of the last entry that was put */
byte place[CLIENTS] = 0;        /* the revision at which the entry was put; 0: there is none */
byte born[CLIENTS] = 0;         /* which lease of the client the entry is under */
byte lease[CLIENTS] = 0;        /* the number of its lease in etcd; 0: there is none */
byte late_put[CLIENTS] = 0;     /* a put under this lease is under way; 0: none is */
byte late_delete[CLIENTS] = 0;  /* a delete of the entry of this revision is under way */
bool believes[CLIENTS] = false; /* would say that it holds */
bool waits[CLIENTS] = false;    /* stands in the queue, as far as it knows */
bool uncertain[CLIENTS] = false;/* was told that its entry may be left, until the lease ends */
bool idle[CLIENTS] = false;     /* was told that nothing of it is left, or has not begun */
byte losses = 0, lapses = 0, last_token = 0;

#define OLDER(c, d) (place[d] && place[d] < place[c])
#if CLIENTS == 2
#define FIRST(c) (place[c] && !OLDER(c, 1 - c))
#else
#define FIRST(c) (place[c] && !OLDER(c, (c + 1) % 3) && !OLDER(c, (c + 2) % 3))
#endif

/* What etcd does, each in one step. */
inline put(c, under) {
    if
    :: lease[c] && lease[c] == under ->
        if
        :: place[c] == 0 -> revision++; place[c] = revision; born[c] = under
        :: else -> skip /* a key that is put again keeps its place */
        fi
    :: else -> skip     /* requested lease not found */
    fi
}
inline revoke(c) { if :: place[c] && born[c] == lease[c] -> place[c] = 0 :: else fi; lease[c] = 0 }
inline lapse(c) {
#ifndef LATE_DEADLINE
    believes[c] = false; /* its deadline is before the end of the lease */
#endif
    revoke(c)
}
#ifdef NO_GUARD
#define MATCHES(c, token) (place[c])
#else
#define MATCHES(c, token) (place[c] && place[c] == token)
#endif
inline delete(c, token) { if :: MATCHES(c, token) -> place[c] = 0 :: else fi }

inline hold(c) {
    waits[c] = false;
    believes[c] = true;
    assert(token > last_token); /* fencing tokens rise */
    last_token = token
}

/* One client: it joins the queue, waits for its turn, gives the lock back; or gives up. */
proctype client(byte c) {
    byte mine = 0, token = 0, next = 1, cycle = 0;
    bool doubtful = false;
    do
    :: cycle < CYCLES ->
        cycle++;
        /* "Waiting" 1: a lease, unless one is left */
        atomic {
            idle[c] = false;
            if
            :: mine == 0 || lease[c] != mine ->
                mine = next; next++; lease[c] = mine; doubtful = false
            :: else
            fi
        }
        /* "Waiting" 2: put our entry, and read the older ones */
        do
        :: atomic { lease[c] == mine -> put(c, mine); token = place[c]; waits[c] = true; break }
        :: atomic { lease[c] != mine -> goto failed }
        :: atomic { losses < LOSSES && late_put[c] == 0 ->
            losses++; late_put[c] = mine; doubtful = true } /* no answer: repeat */
        :: atomic { losses < LOSSES -> losses++; put(c, mine); doubtful = true; goto undo }
        :: atomic { losses < LOSSES && late_put[c] == 0 ->
            losses++; late_put[c] = mine; doubtful = true; goto undo } /* the time is over */
        od;
        /* "Waiting" 3: until no older entry is there; or it is gone, with the lease */
        if
#ifdef BARGE
        :: atomic { place[c] == token -> hold(c) }
#else
        :: atomic { place[c] == token && FIRST(c) -> hold(c) }
#endif
        :: atomic { place[c] != token -> waits[c] = false; goto undo }
        :: atomic { losses < LOSSES -> losses++; waits[c] = false; goto undo } /* gives up */
        fi;
        /* "unlock()": from here on it does not count on its hold any more */
        believes[c] = false;
        if
        :: atomic { delete(c, token); goto released }
        :: atomic { losses < LOSSES && late_delete[c] == 0 ->
            losses++; late_delete[c] = token; delete(c, token); goto released } /* repeated */
        :: atomic { losses < LOSSES && late_delete[c] == 0 -> losses++; late_delete[c] = token }
        fi;
undo:   /* "Doubt": the lease is revoked before anything is reported */
        if
#ifdef NO_REVOKE
        :: goto failed
#else
        :: atomic { if :: lease[c] == mine -> revoke(c) :: else fi; goto failed }
#endif
        :: atomic { losses < LOSSES -> losses++; uncertain[c] = true; mine = 0; break }
        fi;
failed: atomic { mine = 0; idle[c] = true; goto again };
released:
        atomic {
#ifndef REUSE
            if
            :: doubtful -> if :: lease[c] == mine -> revoke(c) :: else fi; mine = 0
            :: else
            fi;
#endif
            idle[c] = true
        };
again:  skip
    :: else -> break
    od;
    mine = 0
}

/* Time: a lease ends by itself, while its client is silent, or after it was left in doubt. */
active proctype time() {
end: do
    :: atomic { lapses < LAPSES && lease[0] -> lapses++; lapse(0) }
    :: atomic { lapses < LAPSES && lease[1] -> lapses++; lapse(1) }
#if CLIENTS == 3
    :: atomic { lapses < LAPSES && lease[2] -> lapses++; lapse(2) }
#endif
#ifndef NO_EXPIRY
    :: atomic { uncertain[0] && lease[0] -> lapse(0) }
    :: atomic { uncertain[1] && lease[1] -> lapse(1) }
#if CLIENTS == 3
    :: atomic { uncertain[2] && lease[2] -> lapse(2) }
#endif
#endif
    od
}

/* The network: what is under way arrives. What never arrives is what never moves. */
active proctype network() {
end: do
    :: atomic { late_put[0] -> put(0, late_put[0]); late_put[0] = 0 }
    :: atomic { late_put[1] -> put(1, late_put[1]); late_put[1] = 0 }
    :: atomic { late_delete[0] -> delete(0, late_delete[0]); late_delete[0] = 0 }
    :: atomic { late_delete[1] -> delete(1, late_delete[1]); late_delete[1] = 0 }
#if CLIENTS == 3
    :: atomic { late_put[2] -> put(2, late_put[2]); late_put[2] = 0 }
    :: atomic { late_delete[2] -> delete(2, late_delete[2]); late_delete[2] = 0 }
#endif
    od
}

/* What is to hold at any moment. */
#define RIGHT(c) (!(believes[c] && !FIRST(c)) && !(idle[c] && place[c]))
#if CLIENTS == 2
#define ALL_RIGHT (RIGHT(0) && RIGHT(1) && believes[0] + believes[1] <= 1)
#else
#define ALL_RIGHT (RIGHT(0) && RIGHT(1) && RIGHT(2) && believes[0] + believes[1] + believes[2] <= 1)
#endif
active proctype monitor() {
end: atomic { !ALL_RIGHT -> assert(ALL_RIGHT) }
}

init {
    atomic {
        run client(0);
        run client(1);
#if CLIENTS == 3
        run client(2)
#endif
    }
}

/* Whoever waits comes to hold, or gives up: as holders end. To be asked with weak fairness. */
#ifdef LIVENESS
ltl served { [] (waits[0] -> <> !waits[0]) }
#endif
