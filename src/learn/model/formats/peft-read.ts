import { join } from 'node:path';
import { LearndError } from '../../../base/errors.ts';
import type { HostTensor, LoraAdapter, WeightSource } from '../types.ts';
import { readJsonObject } from './json-file.ts';
import { SafetensorsFile } from './safetensors-read.ts';

/**
 * Reads a LoRA adapter as PEFT saves it: adapter_config.json and adapter_model.safetensors. Every pair must fit a linear layer
 * of the model.
 * @throws LearndError('corrupt') when it is damaged or for another model, 'invalid' for another kind of adapter (DoRA, biases, ranks
 *   that differ between layers).
 */
export function readPeft(folder: string, weights: WeightSource): LoraAdapter {
  const path = join(folder, 'adapter_config.json');
  const config = readJsonObject(path);
  if (config === undefined) {
    throw new LearndError('not_found', `${folder} has no adapter_config.json`, {
      hint: 'A PEFT adapter is a folder with adapter_config.json and adapter_model.safetensors.',
      retriable: false,
    });
  }
  const unsupported = (field: string, what: string): LearndError =>
    new LearndError('invalid', `${path}: ${field}: ${what}`, { field, retriable: false });
  if (config.peft_type !== 'LORA') throw unsupported('peft_type', `'${String(config.peft_type)}' is not LORA`);
  for (const key of ['use_dora', 'fan_in_fan_out', 'lora_bias']) {
    if (config[key] === true) throw unsupported(key, 'is not supported');
  }
  if (config.bias !== undefined && config.bias !== 'none') throw unsupported('bias', `'${String(config.bias)}'`);
  for (const key of ['rank_pattern', 'alpha_pattern', 'modules_to_save']) {
    const value = config[key];
    if (typeof value === 'object' && value !== null && Object.keys(value).length > 0)
      throw unsupported(key, 'is not supported');
  }
  const { r: rank, lora_alpha: alpha } = config;
  if (!Number.isInteger(rank) || (rank as number) < 1 || typeof alpha !== 'number' || !Number.isFinite(alpha)) {
    throw new LearndError('corrupt', `${path}: r and lora_alpha must be numbers`, { field: 'r', retriable: false });
  }
  // Rank-stabilised LoRA divides by the root of the rank: the same as a larger alpha.
  const scaled = config.use_rslora === true ? alpha * Math.sqrt(rank as number) : alpha;
  const file = new SafetensorsFile(join(folder, 'adapter_model.safetensors'));
  return { rank: rank as number, alpha: scaled, pairs: pairsOf(file, rank as number, weights) };
}

function pairsOf(file: SafetensorsFile, rank: number, weights: WeightSource): LoraAdapter['pairs'] {
  const known = new Set(weights.names());
  const pairs = new Map<string, { a: HostTensor; b: HostTensor }>();
  const bad = (field: string, what: string): LearndError =>
    new LearndError('corrupt', `${file.path}: ${field} ${what}`, { field, retriable: false });
  for (const stored of file.tensors.keys()) {
    const match = /^base_model\.model\.(.+)\.lora_([AB])\.(?:default\.)?weight$/.exec(stored);
    if (match === null) throw bad(stored, 'is not a LoRA tensor of a linear layer');
    if (match[2] === 'B') continue;
    const other = stored.replace('.lora_A.', '.lora_B.');
    const name = `${match[1]}.weight`;
    if (!known.has(name)) throw bad(stored, 'belongs to a layer that the model does not have');
    if (!file.tensors.has(other)) throw bad(stored, 'has no lora_B beside it');
    const read = (tensor: string): HostTensor => ({
      shape: file.tensors.get(tensor)!.shape,
      data: file.float(tensor),
    });
    const [a, b] = [read(stored), read(other)];
    const [out, inputs] = weights.shape(name);
    if (a.shape.join() !== `${rank},${inputs}` || b.shape.join() !== `${out},${rank}`)
      throw bad(stored, `[${a.shape}] and lora_B [${b.shape}] do not fit rank ${rank} on [${out},${inputs}]`);
    pairs.set(name, { a, b });
  }
  if (pairs.size === 0) throw bad('tensors', 'hold no LoRA pair');
  return pairs;
}
