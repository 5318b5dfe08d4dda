// Every text of the page, in one place, to be translated.

const percent = (share) => {
  const value = 100 * share;
  return `${value >= 10 || !value ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toPrecision(2)} %`;
};

/** With some digits that matter, or all of a large number. */
const number = (value, digits = 4) => {
  if (value === null) return "–";
  if (Math.abs(value) >= 10 ** (digits - 1)) return count(Math.round(value));
  return value.toLocaleString("en", { maximumSignificantDigits: digits });
};

const short = (value) => number(value, 2);

const pValue = (p) => (p >= 0.1 ? p.toFixed(2) : String(Number(p.toPrecision(2))));

const count = (n) => n.toLocaleString("en");

/** A share as "38 in 100" or, if it is small, "1 in 1,400". */
const oneIn = (share) => {
  if (share > 0.1) return `${Math.round(100 * share)} in 100`;
  const n = 1 / share;
  const digits = 10 ** Math.max(0, Math.floor(Math.log10(n)) - 1);
  return `1 in ${count(Math.round(n / digits) * digits)}`;
};

const decimals = (value) => value.toFixed(2).replace("-", "\u2212");

/** A time in seconds. */
const seconds = (value) => {
  if (value < 1) return `${short(1000 * value)} ms`;
  return value < 120 ? `${short(value)} s` : `${short(value / 60)} min`;
};

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

const bytes = (value) => {
  const power = value < 1 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log2(value) / 10));
  return `${short(value / 2 ** (10 * power))} ${UNITS[power]}`;
};

export const format = { percent, number, short, p: pValue, count, oneIn, decimals, seconds, bytes };

const flagged = ({ share, expected }) => `${percent(share)} flagged, ${percent(expected)} expected`;

const rangeOf = ({ low, high }) =>
  low === undefined ? "" : ` (clean images: ${percent(low)} to ${percent(high)})`;

export const texts = {
  title: "VAE service",
  skip: "Skip to the content",
  navigation: "Views",
  api: "API",
  serves: (model) => `serves ${model.id}, version ${model.version.slice(0, 8)}`,
  failure: "That did not work.",
  views: {
    look: "Look at an image",
    latent: "Latent space",
    watch: "Watch",
    about: "What is here",
  },
  headings: {
    look: "Is this image unusual, and why?",
    latent: "Walk through the latent space",
    watch: "What the service is doing",
    about: "What is here",
  },
  noAnswer: { title: "The service did not answer.", detail: (why) => `The request to it failed: ${why}.` },
  key: {
    badKey: "A key has letters, digits and signs of ASCII only.",
    label: "This service asks for an API key",
    use: "Use this key",
    wrong: "The service does not know that key.",
    where: "It stays in the memory of this tab and is gone when you close it.",
  },
  commands: {
    summary: "As curl and Python",
    copyShort: "Copy",
    copied: "Copied",
    selected: "Selected: copy it",
    copy: (name) => `Copy the ${name} line`,
    region: (name) => `${name} line`,
  },

  look: {
    lead: (model) => {
      const [channels, height, width] = model.image_shape;
      const { data_set: data, images_trained_on: n } = model.provenance;
      return `This network was trained on ${n ? `${count(n)} ` : ""}images${data ? ` (data set: ${data})` : ""}. ` +
        `It compresses an image, ${width} × ${height} pixels${channels === 3 ? " in colour" : ""}, to ` +
        `${count(model.latent_size)} numbers, and draws it again from these. An image unlike those ` +
        "it was trained on comes back wrong: that is how it finds anomalies.";
    },
    source: "An image",
    pad: "Drawing pad",
    padHint: "Digits fill the dashed frame. By keyboard: arrows move, space lowers and lifts the pen.",
    noPad: "Only small grey images can be drawn by hand. Drop, paste or photograph one of yours.",
    penDown: "The pen is down.",
    penUp: "The pen is up.",
    clear: "Clear",
    drawing: "your drawing",
    linked: "the image of the link",
    badLink: "The link is damaged, or of another network: it holds no image for this one.",
    exampleGroup: "Or try an example:",
    examples: {
      drawn: (i) => `drawn by the network (${i})`,
      scratched: "the first, with a scratch",
      flipped: "the first, upside down",
      inverted: "the first, inverted",
      noise: "noise",
    },
    choose: "Choose images …",
    drop: "or drop or paste them here",
    camera: "Use the camera",
    noCamera: "The browser gave no access to a camera.",
    cameraView: "What the camera sees",
    take: "Take a picture",
    stopCamera: "Stop",
    invert: "Invert files (dark ink on light paper)",
    result: "Verdict",
    nothing: "Choose an image: the verdict appears here at once.",
    verdict: {
      marks: { normal: "●", anomaly: "▲", none: "○" },
      normal: "Nothing unusual",
      anomaly: "Anomaly",
      none: "No verdict",
      sentence: (p, n) => {
        if (p <= 1.5 / (n + 1)) return `None of ${count(n)} clean images scores this high.`;
        return `About ${oneIn(p)} clean images ${p > 0.1 ? "score" : "scores"} at least this high.`;
      },
      tooFew: (alpha) => `There are too few clean images to find anomalies at alpha = ${alpha}.`,
      uncalibrated: (score) =>
        `${score} is not calibrated in this bundle, so there is a score, but nothing to compare it ` +
        "with. “vae calibrate” adds that from your own clean images.",
      short: (state, p) => `${state}${p === null ? "" : `, p = ${pValue(p)}`}`,
      figures: (name, type, score, p) =>
        `${name}: score ${number(score)} by ${type}${p === null ? "" : `, p = ${pValue(p)}`}`,
    },
    histogram: {
      caption: (n, hasThreshold) =>
        `Scores of ${count(n)} clean images: ordinary ones, which it was not trained on. The further ` +
        `right, the more unusual.${hasThreshold ? " Beyond the dashed line is an anomaly." : ""}`,
      label: (score, threshold) =>
        `Histogram of the scores of clean images. This image scores ${score}` +
        (threshold ? `; the threshold is ${threshold}.` : "."),
      threshold: (value) => `threshold ${value}`,
      score: (value) => `this image: ${value}`,
      beyond: (value) => `this image, far off: ${value} →`,
    },
    alpha: {
      label: "False alarms",
      words: (alpha) =>
        `${oneIn(alpha)} clean images ${alpha > 0.1 ? "are" : "is"} called an anomaly by mistake ` +
        `(alpha = ${alpha}). A lower rate misses more anomalies.`,
    },
    why: "Why",
    pictures: {
      reason: "The network can only draw what it has learnt. Where the reconstruction differs from " +
        "the image, the image is unlike those it was trained on.",
      detector: "A detector compares each place of the image with that place in clean images.",
      input: "as the network gets it",
      reconstruction: "reconstruction",
      map: "where they differ",
      places: "unusual places",
      mapLabel: "The image with its unusual places marked",
      strength: "Strength of the marks",
      errors: "Marked is how much each pixel differs, from blue (little) to yellow (most).",
      scaled: "Orange marks places that are more unusual than nearly all places of clean images.",
      actions: "What was done to the file",
    },
    saveImage: "Save what the network gets, as image.png",
    scores: {
      heading: "All scores",
      hint: "Each looks for something else. The verdict is by the one that is marked; choose another " +
        "by its name. Compare p, as values have scales of their own.",
      caption: "Each score of this image, with its p-value and verdict",
      name: "score",
      score: "value",
      verdict: "verdict",
      anomaly: "anomaly",
      normal: "not unusual",
      meanings: {
        fused: "several of those below in one",
        combined: "those of the detector in one",
        features: "features that the detector cannot explain",
        texture: "places whose texture is unusual",
        pooled_distance: "the image as a whole",
        mse: "mean squared error of the pixels",
        mse_top5: "mean squared error of the worst 5 % of pixels",
        kl: "how much information the numbers hold",
        neg_elbo: "error and information together",
        latent_density: "how rare such numbers are",
        latent_mahalanobis: "how far the numbers are from their mean",
        reconstruction_probability: "how well its drawings match the image",
        iwae: "how likely the image is, estimated closely",
      },
    },
    batch: {
      heading: (n, score) => `${count(n)} images by ${score}`,
      progress: (done, n) => `${count(done)} of ${count(n)} are scored.`,
      summary: (anomalies, judged, others) =>
        `${count(anomalies)} of ${count(judged)} ${anomalies === 1 ? "is an anomaly" : "are anomalies"}.` +
        (others ? ` ${count(others)} could not be judged.` : ""),
      rate: (alpha) => `Let at most ${percent(alpha)} of the alarms be false (false discovery rate)`,
      table: "Scores of the files",
      csv: "Save as CSV",
      close: "Close",
      columns: { name: "file", score: "score", p: "p" },
      verdict: "verdict",
      anomaly: "anomaly",
      normal: "not unusual",
    },
  },

  latent: {
    lead: (size) =>
      `The network keeps ${size === 1 ? "one number" : `${size} numbers`} of each image: a point of its latent space. ` +
      "From any point it draws an image: move the sliders to walk through it.",
    dimensions: "The numbers, and what is drawn from them",
    drawn: "What the network draws at this point",
    number: decimals,
    zero: "All zero",
    random: "Random",
    sorted: ({ size, variance }) =>
      variance && size > 1 ? "Those with the most effect come first." : "The network was trained to use values around 0.",
    passive: (count) => (count === 1 ? "One unused dimension" : `${count} unused dimensions`),
    taken: (words) => `${words}: in the sliders.`,
    map: "Map",
    mapKinds: { points: "Points", images: "Images" },
    mapIs: ({ size, share }, sample) =>
      (sample ? `Each point is an image (${sample.data_set}; ${count(sample.n)} of them). ` : "") +
      (size === 1 ? "From left to right: z1." : size === 2
        ? "From left to right: z1; from bottom to top: z2."
        : `A flat view of ${size} numbers: it shows ${percent(share)} of the differences, so neighbours may not be alike.`) +
      (sample?.labels ? " A label is at the middle of its class." : ""),
    mapLabel: (sample) =>
      `Map of the latent space${sample ? ` with ${count(sample.n)} images` : ""}`,
    mapHint: "Point at a place to see what is drawn there. A click, a tap or Enter puts it into the sliders. " +
      "Arrow keys move, with Shift further. The disc with a dot is where the sliders are; the line is the walk.",
    at: (words, place) => `${words} at (${place.map(decimals).join(", ")})`,
    point: (name) => (name === null ? "An image" : `An image of class ${name}`),
    place: "The place",
    noProbe: "What you point at or tap appears here.",
    lookedName: ({ name, isAnomaly }) => `${name}${isAnomaly ? " (unusual)" : ""}`,
    legend: "Click a class to show only that.",
    walk: "A walk between two points",
    ends: { from: "From", to: "To" },
    ofSliders: "The sliders\u2019 point",
    between: "On the way",
    position: "Position",
    stepOf: (step, steps) => `Step ${step} of ${steps}`,
    play: "Play",
    pause: "Pause",
    next: "Next step",
    intoSliders: "Into the sliders",
    saveGif: "Save as GIF",
    savePicture: "Save as one picture",
    steps: "Steps",
    route: "Route",
    routes: { straight: "Straight", arc: "Curved (keeps its distance from 0)" },
    whyRoute: {
      straight: "The shortest way (linear interpolation).",
      arc: "Random points all lie about as far from 0, and so does this way (spherical interpolation). " +
        "A straight one passes nearer to 0, where almost none lie.",
    },
    samples: "New images",
    samplesAre: "Drawn from random points. The same seed always gives the same images. Temperature is how far from 0 the points lie.",
    count: "Number",
    seed: "Seed",
    nextSeed: "Next seed",
    temperature: "Temperature",
    temperatureIs: (value) =>
      `${decimals(value)}, ${value < 1 ? "plainer" : value > 1 ? "stranger" : "usual"}`,
    sample: (number) => `New image ${number}`,
    samplesHint: "Choose one to put its numbers into the sliders.",
  },

  watch: {
    lead: "Read from the service's metrics every two seconds, while this tab is shown. Ten minutes are kept, in this tab alone.",
    window: "Window of time",
    minutes: (minutes) => `${minutes} min`,
    pause: "Pause",
    updated: (time) => `as of ${time}`,
    started: "since the service started",
    last: (time) => `in the last ${time}`,
    range:
      "The line through it is the range of clean images: they leave it at either end once in 10,000 looks, the chance in the calibration included. " +
      "It holds for one look; a guarantee over time needs a test for drift.",
    summary: {
      down: "The service does not answer.",
      reading: "Reading …",
      answering: "Requests are answered.",
      failing: "No request succeeds.",
      idle: "No requests.",
      failures: "Some requests failed because of an error in the service.",
      refusals: "Some requests were refused or lost.",
      full: "The queue is nearly full.",
      within: "Anomalies are within what clean images give.",
      below: "There are fewer anomalies than clean images give.",
      above: (judged) => `There are more anomalies than alpha allows: ${flagged(judged)}.`,
      small: (judged) => `There are too many small p-values: ${flagged(judged)} with p ≤ ${judged.edge}.`,
      both: (judged) => `There are more anomalies than alpha allows, and too many small p-values: ${flagged(judged)}.`,
    },
    anomalies: {
      heading: "Anomalies against alpha",
      none: "No image with a p-value.",
      share: (judged) =>
        `${count(judged.total)} images, ${count(judged.hits)} ${judged.hits === 1 ? "anomaly" : "anomalies"}: ` +
        `${percent(judged.share)}${rangeOf(judged)}`,
      above: "▲ More than clean images give: unusual images came, or your images have changed since the calibration.",
      within: "Within what clean images give.",
      below: "Fewer than clean images give: are the same images sent again and again?",
      unknown: "Not compared with clean images: alpha or the calibration is not known here.",
      about: (alpha) =>
        alpha === undefined ? "" : `Dashed line: the service's alpha, ${percent(alpha)}, the share of clean images that it flags. ` +
        "Each request counts with its own alpha, if it sets one.",
    },
    pValues: {
      heading: "p-values",
      about: "Clean images have each p-value equally often: every bar then ends near the dashed line. Many small ones mean unusual images. A bar with a point is longer than shown.",
      over: "Counted",
      none: "No p-value yet.",
      caption: "How many images had which p-value, and how often that is compared with clean images",
      p: "p-value",
      images: "images",
      times: "compared with clean images",
      bin: (low, high) => `${low}–${high}`,
      ratio: (ratio) => `${ratio} ×`,
      above: "▲ There are more small p-values than clean images give.",
      within: "Small p-values are within what clean images give.",
      below: "There are fewer small p-values than clean images give.",
      sentence: (judged) =>
        `p ≤ ${judged.edge}: ${count(judged.hits)} of ${count(judged.total)} images, ${percent(judged.share)}; ` +
        `expected: ${percent(judged.expected)}${rangeOf(judged)}.`,
    },
    recent: {
      heading: "Last verdicts",
      off: "Images are not kept. VAE_RECENT_IMAGES=100 keeps the last hundred in memory, to be shown here.",
      about: (alpha, workers) =>
        `Newest first. “1 in 100”: one of a hundred clean images is as unusual. ▲ marks p ≤ ${alpha}.` +
        (workers > 1 ? " Each worker keeps its own; these are from the one that has this tab's connection." : ""),
      none: "No image yet.",
      label: "Last verdicts, newest first",
      image: (time, score, p) => `Image scored at ${time} by ${score}${p === null ? "" : `, p-value ${p}`}`,
      anomaly: "▲ anomaly",
      normal: (p) => (p === null ? "no verdict" : "not unusual"),
      noP: "no p-value",
    },
    chart: {
      label: (label) => `Chart: ${label}. The table below has its figures.`,
      line: "Line",
      figures: ["now", "mean", "highest"],
    },
    requests: {
      heading: "Requests per second",
      label: "Requests per second, by status",
      statuses: {
        "2xx": "2xx, answered",
        "4xx": "4xx, wrong or refused",
        "499": "499, client disconnected",
        "5xx": "5xx, error in the service",
      },
      about: "Per second, averaged over 10 s; without metrics and health checks.",
    },
    latency: {
      heading: "Latency",
      label: "Latency quantiles",
      share: (share) => `p${100 * share}`,
      routes: "Latency by route",
      caption: (span) => `By route, ${span}`,
      route: "route",
      requests: "requests",
      none: "No request.",
      about: ({ value, low, high }, time) =>
        low === 0 ? `≤ ${time(high)}` : high === Infinity ? `> ${time(low)}` : `≈ ${time(value)}`,
      note: "From the end of a request's head to the end of its answer. Counted in buckets: ≈ is interpolated within one, as in Prometheus; ≤ and > are the limits of one.",
    },
    queue: {
      heading: "Images in the queue",
      label: "Images waiting",
      images: "images waiting",
      limits: (images, maxImages, size, maxSize) =>
        `Now ${images}${maxImages ? ` of at most ${maxImages}` : ""} images, ` +
        `${size}${maxSize ? ` of at most ${maxSize}` : ""}.`,
      wait: (time) => `95 % of requests waited ${time}.`,
      process: (memory, connections) => `${memory} of memory, ${connections} open connections.`,
    },
    batches: {
      heading: "Images per batch",
      none: "No forward pass.",
      sentence: (span, passes, mean, took) =>
        `${passes} forward passes ${span}, of ${mean} images on average, ${took} each.`,
      caption: "Images in one forward pass",
      size: "images",
      passes: "passes",
      share: "share of passes",
      bin: (low, high) => (high === Infinity ? `≥ ${low}` : low >= high ? `${high}` : `${low}–${high}`),
    },
    refusals: {
      heading: "Refused and lost",
      none: "Nothing was refused.",
      reason: "reason",
      reasons: {
        queue_images: "queue full: images",
        queue_bytes: "queue full: bytes",
        rate_limit: "too many requests for this key",
        not_ready: "not ready",
        connections: "too many connections",
        unauthorized: "no key, or a wrong one",
        forbidden: "this key may not do that",
        disconnects: "client disconnected before the answer",
        deadlines: "took too long",
      },
    },
  },

  about: {
    lead: "The network in memory, what is known of it, and how the service is set up.",
    choice: "What to show",
    sections: { card: "Model card", settings: "Settings" },
    network: {
      heading: "The network",
      names: {
        name: "Name",
        version: "Version",
        architecture: "Architecture",
        detector: "Detector",
        latents: "Latents",
        images: "Images",
        scores: "Scores",
        calibration: "Calibration",
        device: "Runs on",
        provenance: "Trained on",
      },
      kind: ({ architecture, hidden_sizes: sizes }) =>
        `${architecture === "mlp" ? "fully connected" : "convolutional"}, hidden sizes ${sizes.join(", ")}`,
      detected: "photographs are judged by features of a frozen backbone",
      shape: ([channels, height, width]) =>
        `${width} × ${height} pixels, ${channels === 1 ? "grey" : channels === 3 ? "colour" : `${channels} channels`}`,
      isDefault: "default",
      calibration: ({ n, data_set, date, folds }) =>
        `${count(n)} clean images (${data_set}), ${date}${folds ? `, in ${folds} folds` : ""}`,
      smallest: (rarity) => `The smallest p-value is ${rarity}.`,
      uncalibrated: "none: there are scores, but no p-values and no verdicts",
    },
    reload: {
      button: "Reload the bundle from disk",
      hint: "After its files have changed, as by training or “vae calibrate”. Requests go on meanwhile.",
      busy: "Loading and checking…",
      answer: (id, version, isSame) =>
        isSame ? `${id} was reloaded: the same version.` : `${id}, version ${version}, is now in memory.`,
    },
    settings: {
      count: (changed, all) => `${changed} of ${all} settings differ from their defaults. Secrets are not shown.`,
      only: "only those",
      name: "Setting",
      value: "In force",
      usual: "Default",
      meaning: "Meaning",
      unset: "not set",
      changed: "changed",
    },
  },
};
