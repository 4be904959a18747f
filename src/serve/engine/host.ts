/** What the engine process holds: models shared by path, one context per version, heads and their feature models. */
import { randomInt } from 'node:crypto';
import { asLearndError, invalid, LearndError } from '../../base/errors.ts';
import type { FeatureExtractor } from '../../learn/llama/features.ts';
import type { Generator } from '../../learn/llama/generator.ts';
import { LabelScorer } from '../../learn/llama/label-scorer.ts';
import { type GgufModel, openGguf } from '../../learn/llama/runtime.ts';
import { type LoadedHead, loadHead } from './head.ts';
import { PromptBuilder } from './prompt.ts';
import type {
  ClassifyRequest,
  ClassifyResult,
  EngineHealth,
  EngineMethod,
  EngineOptions,
  GenerateRequest,
  GenerateResult,
  LoadResult,
  VersionFiles,
} from './protocol.ts';

interface Shared<T> {
  readonly value: Promise<T>;
  users: number;
}

interface LoadedVersion {
  readonly files: VersionFiles;
  readonly model: GgufModel;
  readonly generator: Generator;
  readonly prompts: PromptBuilder;
  readonly labels: LabelScorer;
  readonly heads: ReadonlyMap<string, LoadedHead>;
}

export class EngineHost {
  readonly #options: EngineOptions;
  readonly #models = new Map<string, Shared<GgufModel>>();
  readonly #features = new Map<string, Shared<FeatureExtractor>>();
  readonly #versions = new Map<string, LoadedVersion>();
  #active = 0;
  /** Loads and unloads happen one after the other, in the order asked for. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: EngineOptions) {
    this.#options = options;
  }

  async handle(
    method: EngineMethod,
    request: unknown,
    signal: AbortSignal,
    onDelta: (delta: string) => void,
  ): Promise<unknown> {
    this.#active++;
    try {
      switch (method) {
        case 'load':
          return await this.#inTurn(() => this.#load(request as VersionFiles));
        case 'unload':
          return await this.#inTurn(() => this.#unload((request as { version: string }).version));
        case 'generate':
          return await this.#generate(request as GenerateRequest, signal, onDelta);
        case 'classify':
          return await this.#classify(request as ClassifyRequest, signal);
        case 'features':
          return await this.#featuresOf(request as { file: string; texts: string[] }, signal);
        case 'health':
          return this.#health();
        default:
          throw new LearndError('internal', `the engine has no method ${String(method)}`);
      }
    } catch (thrown) {
      if (signal.aborted) throw new LearndError('canceled', 'cancelled', { cause: thrown });
      throw asLearndError(thrown);
    } finally {
      this.#active--;
    }
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(work);
    this.#turn = mine.catch(() => undefined);
    return mine;
  }

  async #load(files: VersionFiles): Promise<LoadResult> {
    const started = performance.now();
    const had = this.#versions.get(files.version);
    if (had !== undefined && had.files.sha256 !== files.sha256) {
      throw new LearndError('conflict', `${files.version} is loaded with another content (sha256 ${had.files.sha256})`);
    }
    const loaded = had ?? (await this.#open(files));
    try {
      const probe = await loaded.generator.generate({
        tokens: loaded.prompts.build([{ role: 'user', content: 'Hello' }]).tokens,
        maxTokens: 2,
      });
      if (probe.tokens.length === 0 && probe.reason !== 'stop') {
        throw new LearndError('corrupt', `${files.version} generated nothing`);
      }
      this.#versions.set(files.version, loaded);
      return {
        version: files.version,
        contextLength: loaded.generator.contextSize,
        milliseconds: performance.now() - started,
        probe: probe.text,
      };
    } catch (thrown) {
      if (had === undefined) await this.#close(loaded);
      throw thrown;
    }
  }

  async #open(files: VersionFiles): Promise<LoadedVersion> {
    const heads = new Map<string, LoadedHead>();
    const opened: string[] = [];
    let model: GgufModel | undefined;
    let generator: Generator | undefined;
    try {
      model = await this.#share(this.#models, files.model, () => openGguf(files.model));
      const own = {
        threads: this.#options.threads,
        ...(files.adapter && { adapter: files.adapter }),
        ...(files.logitBias && { logitBias: files.logitBias }),
      };
      generator = await model.createGenerator({
        ...own,
        sequences: this.#options.sequences,
        contextSize: this.#options.contextSize,
      });
      for (const [task, entry] of Object.entries(files.heads)) {
        const extractor = await this.#extractor(entry.features);
        opened.push(entry.features);
        heads.set(task, await loadHead(entry.file, entry.labels, extractor));
      }
      const prompts = new PromptBuilder(model, files.chatTemplate ?? model.chatTemplate);
      return { files, model, generator, prompts, heads, labels: LabelScorer.own(model, own) };
    } catch (thrown) {
      await generator?.dispose();
      for (const path of opened) await this.#releaseFeatures(path);
      if (model !== undefined) await this.#release(this.#models, files.model);
      throw thrown;
    }
  }

  async #unload(version: string): Promise<null> {
    const loaded = this.#versions.get(version);
    if (loaded === undefined) return null;
    this.#versions.delete(version);
    await this.#close(loaded);
    return null;
  }

  async #close(loaded: LoadedVersion): Promise<void> {
    await loaded.generator.dispose();
    await loaded.labels.dispose();
    for (const entry of Object.values(loaded.files.heads)) await this.#releaseFeatures(entry.features);
    await this.#release(this.#models, loaded.files.model);
  }

  async #generate(
    request: GenerateRequest,
    signal: AbortSignal,
    onDelta: (delta: string) => void,
  ): Promise<GenerateResult> {
    const { generator, prompts } = this.#version(request.version);
    const room = generator.contextSize;
    // Truncation leaves the answer a quarter of the context, or what was asked for if that is less.
    const limit = request.truncate ? room - Math.min(request.maxTokens, Math.floor(room / 4)) : undefined;
    const prompt = prompts.build(request.messages, limit);
    if (prompt.tokens.length >= room) {
      throw new LearndError('invalid', `the prompt has ${prompt.tokens.length} tokens; the context holds ${room}`, {
        field: 'input',
        hint: 'Shorten the input, or ask for truncation: "auto".',
        data: { code: 'context_length_exceeded' },
      });
    }
    onDelta(''); // the request is sound: an answer has begun
    const outcome = await generator.generate({
      tokens: prompt.tokens,
      maxTokens: request.maxTokens,
      temperature: request.temperature,
      topP: request.topP,
      seed: request.seed ?? randomInt(2 ** 31),
      stop: [...request.stop, ...prompt.stop],
      ...(request.logitBias && { logitBias: request.logitBias }),
      signal,
      onText: onDelta,
    });
    return {
      version: request.version,
      reason: outcome.reason,
      inputTokens: prompt.tokens.length,
      cachedTokens: outcome.cachedTokens,
      outputTokens: outcome.tokens.length,
    };
  }

  async #classify(request: ClassifyRequest, signal: AbortSignal): Promise<ClassifyResult> {
    const loaded = this.#version(request.version);
    if (request.labels.length < 1) throw invalid('labels', 'no labels to choose from');
    const head = loaded.heads.get(request.task);
    const common = { version: request.version, labels: request.labels };
    if (head !== undefined && (request.declared || head.covers(request.labels))) {
      return { ...common, by: 'head', probabilities: await head.classify(request.texts, request.labels, signal) };
    }
    const probabilities = await loaded.labels.classify(request.texts, request.labels, signal);
    return { ...common, by: 'language_model', probabilities };
  }

  async #featuresOf(request: { file: string; texts: readonly string[] }, signal: AbortSignal): Promise<Float32Array[]> {
    const extractor = await this.#extractor(request.file);
    try {
      return await extractor.features(request.texts, signal);
    } finally {
      await this.#releaseFeatures(request.file);
    }
  }

  #health(): EngineHealth {
    return {
      versions: [...this.#versions.keys()],
      rssMb: process.memoryUsage.rss() / 2 ** 20,
      active: this.#active - 1,
    };
  }

  #version(version: string): LoadedVersion {
    const loaded = this.#versions.get(version);
    if (loaded === undefined) throw new LearndError('not_ready', `${version} is not loaded`);
    return loaded;
  }

  #extractor(path: string): Promise<FeatureExtractor> {
    return this.#share(this.#features, path, async () => {
      const model = await this.#share(this.#models, path, () => openGguf(path));
      try {
        return await model.createFeatureExtractor({ threads: this.#options.threads });
      } catch (thrown) {
        await this.#release(this.#models, path);
        throw thrown;
      }
    });
  }

  async #releaseFeatures(path: string): Promise<void> {
    if (await this.#release(this.#features, path)) await this.#release(this.#models, path);
  }

  /** One opening per path, however many versions use it; a failed opening is forgotten. */
  async #share<T>(table: Map<string, Shared<T>>, path: string, open: () => Promise<T>): Promise<T> {
    let shared = table.get(path);
    if (shared === undefined) {
      shared = { value: open(), users: 0 };
      table.set(path, shared);
    }
    shared.users++;
    try {
      return await shared.value;
    } catch (thrown) {
      if (table.get(path) === shared) table.delete(path);
      throw thrown;
    }
  }

  /** True when that was the last user and it has been closed. */
  async #release<T extends { dispose(): Promise<void> }>(
    table: Map<string, Shared<T>>,
    path: string,
  ): Promise<boolean> {
    const shared = table.get(path);
    if (shared === undefined || --shared.users > 0) return false;
    table.delete(path);
    await (await shared.value).dispose();
    return true;
  }
}
