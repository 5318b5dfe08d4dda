// Every text of the page, in one place, to be translated.

const percent = (share) => {
  const value = 100 * share;
  return `${value >= 10 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toPrecision(2)} %`;
};

export const format = { percent };

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

  look: {},

  latent: {},

  watch: {},

  about: {},
};
