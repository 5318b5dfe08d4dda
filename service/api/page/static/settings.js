// The settings in force, as /settings answers them.

import { json } from "./service.js";
import { useEffect, useState } from "./ui.js";

/** `{list, valueOf, error}`; `list` is null until the answer is there, and if it is an error. */
export function useSettings() {
  const [answer, setAnswer] = useState({ list: null, error: null });
  useEffect(() => {
    json("/settings").then(
      ({ settings }) => setAnswer({ list: settings, error: null }),
      (error) => setAnswer({ list: null, error }),
    );
  }, []);
  const valueOf = (name) => answer.list?.find((setting) => setting.name === name)?.value;
  return { ...answer, valueOf };
}
