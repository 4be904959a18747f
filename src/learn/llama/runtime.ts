/**
 * llama.cpp through node-llama-cpp: one native runtime a process, models opened from GGUF files. CPU only, no build, no download.
 * Weights are memory-mapped, so a second opening of the same file costs no second copy.
 */
import { stat } from 'node:fs/promises';
import { isAbsolute, resolve } from 'node:path';
import { getLlama, type Llama, LlamaLogLevel, type LlamaModel, type Token } from 'node-llama-cpp';
import { LearndError } from '../../base/errors.ts';
import { FeatureExtractor, type FeatureOptions } from './features.ts';
import { Generator, type GeneratorOptions } from './generator.ts';
import { checkAdapterFile, checkModelFile } from './preflight.ts';

/** The last complaints of llama.cpp: it logs the reason of a failed load and then only says that it failed. */
const complaints: string[] = [];
let runtime: Promise<Llama> | undefined;

function startRuntime(): Promise<Llama> {
  runtime ??= getLlama({
    build: 'never',
    gpu: false,
    maxThreads: 0, // each context says its own number of threads; no hidden sharing between contexts
    progressLogs: false,
    logLevel: LlamaLogLevel.error,
    logger: (_level, message) => {
      complaints.push(message.trim());
      if (complaints.length > 8) complaints.shift();
    },
  }).catch(cause => {
    runtime = undefined;
    throw new LearndError('dependency', 'llama.cpp cannot be loaded on this machine', {
      hint: 'Install the package again (npm install) so that @node-llama-cpp has the binary for this platform.',
      cause,
    });
  });
  return runtime;
}

async function explain(what: string, path: string, thrown: unknown): Promise<LearndError> {
  await new Promise(done => setTimeout(done, 5)); // log lines arrive from the native thread a moment after the failure
  const said = [...new Set(complaints)].join('; ');
  const reason = thrown instanceof Error ? thrown.message : String(thrown);
  return new LearndError('corrupt', `${what} cannot be loaded: ${path}: ${said === '' ? reason : said}`, {
    hint: 'The file is damaged or not a GGUF that llama.cpp reads; fetch or export it again.',
    cause: thrown,
  });
}

async function mustExist(what: string, path: string): Promise<void> {
  const found = await stat(path).catch(() => undefined); // whatever the reason, there is no file to open: said below
  if (found === undefined || !found.isFile()) {
    throw new LearndError('not_found', `${what} not found: ${path}`, {
      hint: 'Check the path; it must be a GGUF file.',
    });
  }
  if (found.size < 32) throw new LearndError('corrupt', `${what} is too short to be a GGUF file: ${path}`);
}

/**
 * Opens a GGUF. Throws LearndError 'not_found' (no such file), 'corrupt' (llama.cpp refuses it: wrong magic, missing or
 * truncated tensors, invalid blocks), 'dependency' (llama.cpp itself does not load).
 */
export async function openGguf(path: string): Promise<GgufModel> {
  const full = isAbsolute(path) ? path : resolve(path);
  await mustExist('model file', full);
  await checkModelFile(full);
  const llama = await startRuntime();
  complaints.length = 0;
  try {
    return new GgufModel(full, await llama.loadModel({ modelPath: full, checkTensors: true }));
  } catch (thrown) {
    throw await explain('model file', full, thrown);
  }
}

/** An open model: tokenizer, chat template, and the contexts made on it. Contexts keep the weights alive between them. */
export class GgufModel {
  readonly path: string;
  readonly #model: LlamaModel;

  constructor(path: string, model: LlamaModel) {
    this.path = path;
    this.#model = model;
  }

  /** Tokens the model was trained to see at once. */
  get contextLength(): number {
    return this.#model.trainContextSize;
  }

  /** Width of the hidden state: the length of a feature vector. */
  get hidden(): number {
    return this.#model.embeddingVectorSize;
  }

  get bosId(): number | undefined {
    return this.#model.tokens.bos ?? undefined;
  }

  get eosId(): number | undefined {
    return this.#model.tokens.eos ?? undefined;
  }

  /** The tokenizer asks for a beginning-of-sequence token before every text. */
  get addsBos(): boolean {
    return this.#model.tokens.shouldPrependBosToken;
  }

  /** Jinja chat template stored in the file. */
  get chatTemplate(): string | undefined {
    const tokenizer = this.#model.fileInfo.metadata?.tokenizer as { chat_template?: unknown } | undefined;
    return typeof tokenizer?.chat_template === 'string' ? tokenizer.chat_template : undefined;
  }

  /** `special`: text that spells a special token becomes that token. Nothing is added at either end. */
  tokenize(text: string, options: { special?: boolean } = {}): number[] {
    return this.#model.tokenize(text, options.special ?? false) as number[];
  }

  /** `special`: special tokens are spelled out, else they are left out. */
  detokenize(tokens: readonly number[], options: { special?: boolean } = {}): string {
    return this.#model.detokenize(tokens as readonly Token[], options.special ?? false);
  }

  isSpecial(token: number): boolean {
    return this.#model.isSpecialToken(token as Token);
  }

  isEndOfGeneration(token: number): boolean {
    return this.#model.isEogToken(token as Token);
  }

  /** A context for answers and label scores. Throws 'not_found' / 'corrupt' for the adapter's file. */
  async createGenerator(options: GeneratorOptions = {}): Promise<Generator> {
    if (options.adapter !== undefined) {
      await mustExist('adapter file', options.adapter.path);
      checkAdapterFile(options.adapter.path);
    }
    complaints.length = 0;
    try {
      return await Generator.create(this.#model, options);
    } catch (thrown) {
      throw await explain(
        options.adapter === undefined ? 'context of model' : 'adapter file',
        options.adapter?.path ?? this.path,
        thrown,
      );
    }
  }

  /** A context for mean-pooled features; the file must be a truncated `llama-embed` GGUF with pooling type 1. */
  async createFeatureExtractor(options: FeatureOptions = {}): Promise<FeatureExtractor> {
    complaints.length = 0;
    try {
      return await FeatureExtractor.create(this.#model, options);
    } catch (thrown) {
      throw await explain('feature model', this.path, thrown);
    }
  }

  /** Frees the weights; contexts still open on it are closed first. */
  async dispose(): Promise<void> {
    await this.#model.dispose();
  }
}
