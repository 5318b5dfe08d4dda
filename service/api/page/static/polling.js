// Work that is done again and again while somebody looks.

import { useEffect, useRef } from "./ui.js";

/**
 * Calls `work` at once and `everyMs` after it has ended, but not while the tab is hidden or
 * `isPaused`. Work that returns false is not done again.
 */
export function usePolling(work, everyMs, isPaused) {
  const newest = useRef(work);
  newest.current = work;
  useEffect(() => {
    if (isPaused) return undefined;
    let timer = 0;
    let isBusy = false;
    let isOver = false;
    const turn = async () => {
      if (isBusy || isOver || document.hidden) return;
      clearTimeout(timer);
      isBusy = true;
      if ((await newest.current()) === false) isOver = true;
      isBusy = false;
      if (!isOver) timer = setTimeout(turn, everyMs);
    };
    document.addEventListener("visibilitychange", turn);
    turn();
    return () => {
      isOver = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", turn);
    };
  }, [everyMs, isPaused]);
}
