import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { LearndError } from '../../../base/errors.ts';
import { readTokenizerJson } from '../tokenizer/hf-json.ts';
import type { Checkpoint, HostTensor, ModelConfig, Tokenizer, WeightSource } from '../types.ts';
import { damaged, readJsonObject } from './json-file.ts';
import { checkShapes, expectedShapes } from './llama-layout.ts';
import { SafetensorsFile } from './safetensors-read.ts';

/** A model opened from a folder as transformers saves it. */
export interface FolderCheckpoint extends Checkpoint {
  readonly kind: 'folder';
}

function unsupported(path: string, field: string, what: string): LearndError {
  return new LearndError('invalid', `${path}: ${field}: ${what}`, {
    field,
    hint: 'learnd trains Llama-family decoders: RMSNorm, plain RoPE, SwiGLU, grouped-query attention.',
    retriable: false,
  });
}

/** config.json of LlamaForCausalLM, Qwen2ForCausalLM or MistralForCausalLM without a sliding window. */
export function configFromJson(path: string, json: Record<string, unknown>): ModelConfig {
  const number = (key: string, fallback?: number): number => {
    const value = json[key] ?? fallback;
    if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0) {
      throw damaged(path, `${JSON.stringify(value)} is not a positive number`, key);
    }
    return value;
  };
  const count = (key: string, fallback?: number): number => {
    const value = number(key, fallback);
    if (!Number.isInteger(value) || value > 2 ** 31) throw damaged(path, `${value} is not a count`, key);
    return value;
  };
  const type = json.model_type;
  if (type !== 'llama' && type !== 'qwen2' && type !== 'mistral') {
    throw unsupported(path, 'model_type', `'${String(type)}' is not llama, qwen2 or mistral`);
  }
  if ((json.hidden_act ?? 'silu') !== 'silu') throw unsupported(path, 'hidden_act', String(json.hidden_act));
  const rope = (json.rope_parameters ?? json.rope_scaling ?? {}) as Record<string, unknown>;
  const scaling = rope.rope_type ?? rope.type ?? 'default';
  if (scaling !== 'default') throw unsupported(path, 'rope_scaling', `${String(scaling)} scaling of positions`);
  if (type === 'mistral' && json.sliding_window != null) throw unsupported(path, 'sliding_window', 'a sliding window');
  if (json.use_sliding_window === true) throw unsupported(path, 'use_sliding_window', 'a sliding window');
  if (type !== 'llama' && json.mlp_bias === true) throw unsupported(path, 'mlp_bias', `biases in a ${type} model`);
  if (type !== 'qwen2' && json.attention_bias === true) {
    throw unsupported(path, 'attention_bias', 'a bias on the output projection');
  }
  const layers = count('num_hidden_layers');
  if (layers > 4096) throw damaged(path, `${layers} layers`, 'num_hidden_layers');
  const hidden = count('hidden_size');
  const heads = count('num_attention_heads');
  const kvHeads = count('num_key_value_heads', heads);
  const headDim = count('head_dim', hidden / heads);
  if (heads % kvHeads !== 0 || headDim % 2 !== 0) {
    throw damaged(path, `${heads} heads, ${kvHeads} key-value heads of ${headDim}`, 'num_attention_heads');
  }
  const theta = typeof rope.rope_theta === 'number' ? rope.rope_theta : undefined;
  return {
    vocabSize: count('vocab_size'),
    hidden,
    layers,
    heads,
    kvHeads,
    headDim,
    ffn: new Array<number>(layers).fill(count('intermediate_size')),
    contextLength: count('max_position_embeddings', 2048),
    ropeTheta: number('rope_theta', theta ?? 10_000),
    rmsEps: number('rms_norm_eps', 1e-6),
    tied: json.tie_word_embeddings === true,
    attentionBias: type === 'qwen2',
    ...(json.mlp_bias === true && { downBias: true }),
  };
}

class SafetensorsWeights implements WeightSource {
  readonly #files: ReadonlyMap<string, SafetensorsFile>;
  readonly #names: string[];
  constructor(files: ReadonlyMap<string, SafetensorsFile>, names: string[]) {
    this.#files = files;
    this.#names = names;
  }
  names(): string[] {
    return [...this.#names];
  }
  #file(name: string): SafetensorsFile {
    const file = this.#files.get(name);
    if (file === undefined) throw new LearndError('not_found', `the model has no tensor ${name}`, { retriable: false });
    return file;
  }
  shape(name: string): readonly number[] {
    return this.#file(name).tensors.get(name)!.shape;
  }
  read(name: string, into?: Float32Array): HostTensor {
    const file = this.#file(name);
    return { shape: file.tensors.get(name)!.shape, data: file.float(name, into) };
  }
  readRows(name: string, row: number, out: Float32Array): boolean {
    this.#file(name).floatRows(name, row, out);
    return true;
  }
}

/** The safetensors files of a folder: those its index names, else every one. */
function weightFiles(folder: string): Map<string, SafetensorsFile> {
  const index = readJsonObject(join(folder, 'model.safetensors.index.json'));
  const map = index?.weight_map;
  if (index !== undefined && (typeof map !== 'object' || map === null)) {
    throw damaged(join(folder, 'model.safetensors.index.json'), 'is not an object', 'weight_map');
  }
  const names =
    map != null
      ? [...new Set(Object.values(map).map(String))]
      : readdirSync(folder).filter(name => name.endsWith('.safetensors'));
  const byTensor = new Map<string, SafetensorsFile>();
  for (const name of names.sort()) {
    if (name.includes('/') || name.includes('\\')) throw damaged(folder, `the index names the file '${name}'`);
    const file = new SafetensorsFile(join(folder, name));
    for (const tensor of file.tensors.keys()) byTensor.set(tensor, file);
  }
  return byTensor;
}

/** transformers has biases in all three feed-forward layers or in none; learnd's models have one in down_proj only. */
function checkZeroBiases(path: string, config: ModelConfig, files: ReadonlyMap<string, SafetensorsFile>): void {
  for (let n = 0; n < config.layers; n++) {
    for (const part of ['gate', 'up']) {
      const name = `model.layers.${n}.mlp.${part}_proj.bias`;
      if (
        files
          .get(name)
          ?.float(name)
          .some(value => value !== 0)
      )
        throw unsupported(path, 'mlp_bias', `${name} is not zero: only down_proj may carry a bias`);
    }
  }
}

/** @throws LearndError('corrupt') when the tokenizer has ids that the model has no embedding for. */
export function fitting<T extends Tokenizer>(tokenizer: T, path: string, config: ModelConfig): T {
  if (tokenizer.vocabSize <= config.vocabSize) return tokenizer;
  const what = `the tokenizer has ${tokenizer.vocabSize} tokens, the model embeddings for ${config.vocabSize}`;
  throw new LearndError('corrupt', `${path}: ${what}`, {
    field: 'tokenizer',
    hint: "Use the tokenizer that belongs to this model's weights.",
    retriable: false,
  });
}

/** Opens a folder with config.json, *.safetensors (one, or several with an index) and tokenizer.json. */
export function openFolder(folder: string): FolderCheckpoint {
  const configPath = join(folder, 'config.json');
  const json = readJsonObject(configPath);
  if (json === undefined) {
    throw new LearndError('not_found', `${folder} has no config.json`, {
      hint: 'A model folder has config.json, *.safetensors and tokenizer.json.',
      retriable: false,
    });
  }
  const config = configFromJson(configPath, json);
  const files = weightFiles(folder);
  checkShapes(folder, config, name => files.get(name)?.tensors.get(name)?.shape);
  if (config.downBias) checkZeroBiases(configPath, config, files);
  const tokenizerConfig = readJsonObject(join(folder, 'tokenizer_config.json')) ?? {};
  let tokenizer: Tokenizer | undefined;
  return {
    kind: 'folder',
    path: folder,
    config,
    weights: new SafetensorsWeights(files, [...expectedShapes(config).keys()]),
    get tokenizer() {
      tokenizer ??= fitting(
        readTokenizerJson(join(folder, 'tokenizer.json'), tokenizerConfig, json),
        join(folder, 'tokenizer.json'),
        config,
      );
      return tokenizer;
    },
    chatTemplate: chatTemplateOf(folder, tokenizerConfig),
    metadata: { config: json, tokenizer_config: tokenizerConfig },
  };
}

/** transformers keeps the template in tokenizer_config.json, newer ones in chat_template.jinja. */
function chatTemplateOf(folder: string, tokenizerConfig: Record<string, unknown>): string | undefined {
  const template = tokenizerConfig.chat_template;
  if (typeof template === 'string') return template;
  if (Array.isArray(template)) {
    const named = template.find(entry => (entry as { name?: unknown })?.name === 'default');
    if (typeof named?.template === 'string') return named.template;
  }
  const path = join(folder, 'chat_template.jinja');
  return statSync(path, { throwIfNoEntry: false }) ? readFileSync(path, 'utf8') : undefined;
}
