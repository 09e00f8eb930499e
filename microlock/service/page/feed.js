// The stream of the service. It is opened again when it ends, or is silent for too long.

// After so long without even a heartbeat the connection is dead.
const SILENCE_MS = 25_000;
const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 10_000;

/**
 * Follows the events at an address, for as long as the page lives.
 *
 * `told` has: `snapshot(locks)`, `change(locks)`, and `state(name, why)` with "live", "lost" or
 * "blind": the service can't reach its store.
 */
export function follow(address, told) {
  let source, watchdog, again;
  let pause = FIRST_PAUSE_MS;

  function open() {
    close();
    source = new EventSource(address);
    source.addEventListener("snapshot", heard((data) => told.snapshot(data.locks)));
    source.addEventListener("change", heard((data) => told.change(data.locks)));
    source.addEventListener("status", heard((data) => {
      if (data.connected) told.state("live");
      else told.state("blind", data.error);
    }));
    source.addEventListener("error", lost);
    watch();
  }

  function heard(act) {
    return (event) => {
      pause = FIRST_PAUSE_MS;
      watch();
      act(JSON.parse(event.data));
    };
  }

  function watch() {
    clearTimeout(watchdog);
    watchdog = setTimeout(lost, SILENCE_MS);
  }

  function lost() {
    close();
    told.state("lost");
    again = setTimeout(open, pause * (0.5 + Math.random() / 2));
    pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
  }

  function close() {
    clearTimeout(watchdog);
    clearTimeout(again);
    source?.close();
  }

  addEventListener("online", open);
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => event.persisted && open());
  open();
}
