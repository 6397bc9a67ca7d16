// The network: its files are fetched with progress, and it runs by onnxruntime-web in a worker.

import { preprocess, supports, withoutAlpha } from "./preprocessing.js";
import * as ort from "./onnxruntime/ort.wasm.min.mjs";

/** What export wrote beside this page about the network. */
export async function readFacts() {
  const answer = await request("model.json");
  try {
    return await answer.json();
  } catch {
    throw new Error("“model.json” is damaged. Copy the whole folder again.");
  }
}

export class Network {
  constructor(facts, session) {
    this.facts = facts;
    this.description = facts.description;
    this.session = session;
  }

  /**
   * Fetch the network and its runtime.
   * progress(loaded, total) is called with bytes.
   */
  static async load(facts, progress) {
    const { description, files } = facts;
    if (!description.embedded_preprocessing && !supports(description.preprocessing)) {
      throw new Error(
        `This page can't resize as the network wants (${description.preprocessing.interpolation}).`,
      );
    }
    const total = Object.values(files).reduce((sum, bytes) => sum + bytes, 0);
    let loaded = 0;
    const [model, runtime] = await Promise.all(
      Object.keys(files).map((name) => download(name, (bytes) => progress((loaded += bytes), total))),
    );
    ort.env.wasm.wasmBinary = runtime.buffer;
    ort.env.wasm.proxy = true; // in a worker: the page stays responsive
    let session;
    try {
      session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
    } catch (error) {
      throw new Error(`This browser can't run the network: ${error.message}`);
    }
    return new Network(facts, session);
  }

  get threads() {
    return ort.env.wasm.numThreads || 1;
  }

  /** Classify a picture: probabilities in the order of the classes, and milliseconds. */
  async classify(picture) {
    const start = performance.now();
    const { tensor, seen } = this.inputOf(picture);
    const prepared = performance.now();
    const outputs = await this.session.run({ [this.facts.input.name]: tensor }, [this.facts.output.name]);
    const finished = performance.now();
    return {
      probabilities: softmax(outputs[this.facts.output.name].data),
      milliseconds: { preprocessing: prepared - start, network: finished - prepared },
      seen,
    };
  }

  inputOf(picture) {
    if (this.description.embedded_preprocessing) {
      const channels = this.facts.input.dims.at(-1);
      const dims = [1, picture.height, picture.width, channels].slice(-this.facts.input.dims.length);
      return { tensor: new ort.Tensor("uint8", withoutAlpha(picture, channels), dims), seen: null };
    }
    const { preprocessing } = this.description;
    const { height, width, channels } = preprocessing;
    const { input, bytes } = preprocess(picture, preprocessing);
    const tensor = new ort.Tensor("float32", input, [1, channels, height, width]);
    return { tensor, seen: { bytes, height, width, channels } };
  }

  /** The most probable classes, best first. */
  best(probabilities, count) {
    const names = this.description.class_names;
    return Array.from(probabilities, (probability, index) => ({
      label: names.length ? names[index] : `${index}`,
      index,
      probability,
    }))
      .sort((a, b) => b.probability - a.probability || a.index - b.index)
      .slice(0, count);
  }
}

function softmax(logits) {
  if (!logits.every(Number.isFinite)) {
    throw new Error("The network's output isn't finite (NaN or infinity).");
  }
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const powers = Float64Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

async function request(name) {
  let answer;
  try {
    answer = await fetch(name.split("/").map(encodeURIComponent).join("/"));
  } catch {
    throw new Error(`The server doesn't answer, so “${name}” can't be loaded. Is it still running?`);
  }
  if (!answer.ok) {
    throw new Error(`The server has no file “${name}” (${answer.status}). Copy the whole folder.`);
  }
  return answer;
}

async function download(name, progress) {
  const reader = (await request(name)).body.getReader();
  const parts = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    length += value.length;
    progress(value.length);
  }
  const whole = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
