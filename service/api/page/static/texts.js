// Every text of the page, in one place, to be translated.

const percent = (share) => {
  const value = 100 * share;
  return `${value >= 10 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toPrecision(2)} %`;
};

const number = (value) => (value === null ? "–" : Number(value.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 }));

const pValue = (p) => (p >= 0.01 ? p.toFixed(2) : p.toPrecision(1));

const count = (n) => n.toLocaleString("en");

/** A share as "38 in 100" or, if it is small, "1 in 1,400". */
const oneIn = (share) => {
  if (share > 0.1) return `${Math.round(100 * share)} in 100`;
  const n = 1 / share;
  const digits = 10 ** Math.max(0, Math.floor(Math.log10(n)) - 1);
  return `1 in ${count(Math.round(n / digits) * digits)}`;
};

export const format = { percent, number, p: pValue, count, oneIn };

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
  key: {
    label: "This service asks for an API key",
    use: "Use this key",
    wrong: "The service does not know that key.",
    where: "It stays in the memory of this tab and is gone when you close it.",
  },
  commands: {
    summary: "As a command",
    copyShort: "Copy",
    copied: "Copied",
    copy: (name) => `Copy the ${name} line`,
    region: (name) => `${name} line`,
  },

  look: {
    lead: (model) => {
      const [channels, height, width] = model.image_shape;
      const { data_set: data, images_trained_on: n } = model.provenance;
      return `This network has learnt from ${n ? `${count(n)} ` : ""}images${data ? ` (${data})` : ""}. ` +
        `It squeezes an image, ${width} × ${height} pixels${channels === 3 ? " in colour" : ""}, into ` +
        `${count(model.latent_size)} numbers, and draws it again from these. What is unlike anything ` +
        "that it has seen comes back wrong: that is how it finds unusual images.";
    },
    source: "An image",
    pad: "Drawing pad",
    padHint: "Draw inside the dashed frame. Or by keyboard: arrows move, space lowers and lifts the pen.",
    penDown: "The pen is down.",
    penUp: "The pen is up.",
    clear: "Clear",
    drawing: "your drawing",
    linked: "the image of the link",
    badLink: "The link is damaged: it holds no image.",
    exampleGroup: "Examples",
    examples: {
      drawn: (i) => `drawn by the network (${i})`,
      scratched: "the first, with a scratch",
      flipped: "the first, upside down",
      inverted: "the first, black and white swapped",
      noise: "noise",
    },
    choose: "Choose images …",
    drop: "or drop or paste them here",
    camera: "Use the camera",
    noCamera: "The browser gave no access to a camera.",
    cameraView: "What the camera sees",
    take: "Take a picture",
    stopCamera: "Stop",
    invert: "Files are dark ink on light paper: invert them",
    result: "Verdict",
    nothing: "Draw something, or choose an example: the verdict appears here at once.",
    verdict: {
      marks: { normal: "●", anomaly: "▲", none: "○" },
      normal: "Nothing unusual",
      anomaly: "Anomaly",
      none: "No verdict",
      sentence: (p, n) => {
        if (p <= 1.5 / (n + 1)) {
          return `None of the ${count(n)} clean images that it is compared with scores this high.`;
        }
        return `About ${oneIn(p)} clean images ${p > 0.1 ? "score" : "scores"} at least this high.`;
      },
      uncalibrated: (score) =>
        `${score} is not calibrated in this bundle, so there is a score, but nothing to compare it ` +
        "with. “vae calibrate” adds that from your own clean images.",
      short: (state, p) => `${state}${p === null ? "" : `, p = ${pValue(p)}`}`,
      figures: (name, type, score, p) =>
        `Of ${name}: score ${number(score)} by ${type}${p === null ? "" : `, p = ${pValue(p)}`}`,
    },
    histogram: {
      caption: (n) =>
        `Scores of ${count(n)} clean images. The further right, the more unusual; from the dashed ` +
        "line on, an image is called an anomaly.",
      label: (score, threshold) =>
        `Histogram of the scores of clean images. This image scores ${score}` +
        (threshold ? `; the threshold is ${threshold}.` : "."),
      threshold: (value) => `threshold ${value}`,
      score: (value) => `this image: ${value}`,
      beyond: (value) => `this image, far beyond: ${value} →`,
    },
    alpha: {
      label: "False alarms",
      words: (alpha) =>
        `${oneIn(alpha)} clean images ${alpha > 0.1 ? "are" : "is"} called an anomaly by mistake (alpha = ${alpha}). ` +
        "Fewer false alarms, and more anomalies are missed.",
    },
    why: "Why",
    reason: "The network can only draw what it has learnt. Where its drawing differs from the image, " +
      "the image is unlike those that it has seen.",
    detectorReason: "A detector compares each place of the image with the same place in clean images.",
    pictures: {
      input: "as the network gets it",
      reconstruction: "as the network draws it again",
      map: "where they differ",
      mapLabel: "The image with its unusual places marked",
      strength: "Strength of the marks",
      errors: "Marked is how much each pixel differs, from blue (little) to yellow (most).",
      scaled: "Orange marks places that are more unusual than nearly all places of clean images.",
      actions: "What was done to the file",
    },
    saveImage: "Save this image as image.png",
    scores: {
      heading: "All scores",
      caption: "Each score of this image, with its p-value and verdict",
      name: "score",
      score: "value",
      verdict: "verdict",
      anomaly: "anomaly",
      normal: "not unusual",
      meanings: {
        fused: "several scores in one",
        combined: "the detector's scores in one",
        features: "features that the detector cannot explain",
        texture: "places whose texture is unusual",
        pooled_distance: "the image as a whole",
        mse: "mean error of a pixel",
        mse_top5: "mean error of the worst pixels",
        kl: "information in the latents",
        neg_elbo: "error and information together",
        latent_density: "how rare the latents are",
        latent_mahalanobis: "how far the latents are from the middle",
        reconstruction_probability: "mean likelihood of the image",
        iwae: "likelihood of the image, more tightly",
      },
    },
    batch: {
      heading: (n) => `${count(n)} images`,
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

  latent: {},

  watch: {},

  about: {},
};
