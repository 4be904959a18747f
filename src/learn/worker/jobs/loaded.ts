import { type EngineAdapter, type EngineModel, loadEngineAdapter, loadEngineModel } from '../../model/engine/index.ts';
import { readLoraGguf } from '../../model/lora.ts';
import { type OpenedModel, openModel } from '../../model/open.ts';
import type { LoraAdapter } from '../../model/types.ts';
import { tensorflow } from '../../tensor/backend.ts';
import type { ModelFiles } from '../types.ts';

export interface Loaded {
  readonly checkpoint: OpenedModel;
  readonly model: EngineModel;
  readonly adapter: EngineAdapter | undefined;
  /** The adapter as read, at the scale it is served with. */
  readonly lora: LoraAdapter | undefined;
}

/** The model scored last stays in memory: the monitor asks for the same one every few seconds (SmolLM2-135M: 540 MB, 2 s to load). */
let cached: { key: string; loaded: Loaded } | undefined;

export async function loadForScoring(files: ModelFiles, threads: number): Promise<Loaded> {
  const key = JSON.stringify([files.model, files.adapter]);
  if (cached?.key !== key) {
    forget();
    cached = { key, loaded: await load(files, threads) };
  }
  return cached.loaded;
}

/** Frees the cached model, before something else of that size is loaded. */
export function forget(): void {
  cached?.loaded.adapter?.dispose();
  cached?.loaded.model.dispose();
  cached = undefined;
}

/** A model of the caller's own, whose weights it may change. */
export async function load(files: ModelFiles, threads: number): Promise<Loaded> {
  // TensorFlow reads the number of threads when it is loaded: this is the first call of a worker that computes.
  tensorflow({ threads });
  const checkpoint = await openModel(files.model);
  const model = loadEngineModel(checkpoint);
  const lora = files.adapter && servedAt(readLoraGguf(files.adapter.path, checkpoint.config), files.adapter.scale);
  return { checkpoint, model, lora, adapter: lora && loadEngineAdapter(model, lora) };
}

/** llama.cpp multiplies (alpha / rank) by the scale the adapter is loaded with. */
const servedAt = (adapter: LoraAdapter, scale: number): LoraAdapter => ({ ...adapter, alpha: adapter.alpha * scale });
