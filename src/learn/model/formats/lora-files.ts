import { join } from 'node:path';
import { invalid } from '../../../base/errors.ts';
import type { Checkpoint, HostTensor, LoraAdapter } from '../types.ts';
import { textChunk, type WrittenFile, writeAtomically } from './atomic-file.ts';
import { f32, type GgufValue, str, u32 } from './gguf-value.ts';
import { type GgufTensorPlan, writeGguf } from './gguf-write.ts';
import { ggufName, permutesRope, rotatedHeads, rotateRows } from './llama-layout.ts';
import { architectureOf } from './model-gguf.ts';
import { quantize } from './quantize-blocks.ts';
import { writeSafetensorsFile } from './safetensors-write.ts';

/** Throws unless every pair fits a linear layer of the model. */
function checkPairs(adapter: LoraAdapter, checkpoint: Checkpoint): void {
  const known = new Set(checkpoint.weights.names());
  for (const [name, { a, b }] of adapter.pairs) {
    if (!known.has(name) || !/_proj\.weight$|^lm_head\.weight$/.test(name)) {
      throw invalid('adapter', `${name} is not a linear layer of the model`);
    }
    const [out, inputs] = checkpoint.weights.shape(name) as [number, number];
    if (a.shape.join() !== [adapter.rank, inputs].join() || b.shape.join() !== [out, adapter.rank].join()) {
      throw invalid('adapter', `${name}: A [${a.shape}] and B [${b.shape}] do not fit [${out}, ${inputs}]`);
    }
  }
}

/**
 * Writes a LoRA adapter as llama.cpp loads it beside the base GGUF: float32 pairs, the rows of B for q and k in the order
 * that the base's own rows have in GGUF.
 */
export async function writeLoraGguf(adapter: LoraAdapter, checkpoint: Checkpoint, out: string): Promise<WrittenFile> {
  checkPairs(adapter, checkpoint);
  const architecture = architectureOf(checkpoint.config, checkpoint);
  const metadata = new Map<string, GgufValue>([
    ['general.architecture', str(architecture)],
    ['general.type', str('adapter')],
    ['adapter.type', str('lora')],
    ['adapter.lora.alpha', f32(adapter.alpha)],
    ['general.file_type', u32(0)],
    ['general.quantization_version', u32(2)],
  ]);
  const tensors: GgufTensorPlan[] = [];
  for (const [name, { a, b }] of adapter.pairs) {
    const stored = ggufName(name)!;
    const heads = permutesRope(architecture) ? rotatedHeads(name, checkpoint.config) : undefined;
    const rows = heads === undefined ? b.data : rotateRows(b.data, heads, checkpoint.config.headDim);
    tensors.push({ name: `${stored}.lora_a`, shape: a.shape, type: 'f32', bytes: () => quantize('f32', a.data) });
    tensors.push({ name: `${stored}.lora_b`, shape: b.shape, type: 'f32', bytes: () => quantize('f32', rows) });
  }
  return writeGguf(out, metadata, tensors);
}

/** Writes a LoRA adapter as PEFT loads it: adapter_config.json and adapter_model.safetensors. */
export async function writePeft(adapter: LoraAdapter, checkpoint: Checkpoint, dir: string): Promise<WrittenFile[]> {
  checkPairs(adapter, checkpoint);
  const tensors = new Map<string, HostTensor>();
  const modules = new Set<string>();
  const layers = new Set<number>();
  for (const [name, { a, b }] of adapter.pairs) {
    const module = name.replace(/\.weight$/, '');
    modules.add(module.slice(module.lastIndexOf('.') + 1));
    const layer = /^model\.layers\.(\d+)\./.exec(name);
    if (layer) layers.add(Number(layer[1]));
    tensors.set(`base_model.model.${module}.lora_A.weight`, a);
    tensors.set(`base_model.model.${module}.lora_B.weight`, b);
  }
  const someLayers = layers.size < checkpoint.config.layers;
  const config = {
    peft_type: 'LORA',
    task_type: 'CAUSAL_LM',
    base_model_name_or_path: String(checkpoint.metadata['general.name'] ?? ''),
    r: adapter.rank,
    lora_alpha: adapter.alpha,
    lora_dropout: 0,
    bias: 'none',
    fan_in_fan_out: false,
    inference_mode: true,
    target_modules: [...modules].sort(),
    layers_to_transform: someLayers ? [...layers].sort((x, y) => x - y) : null,
    use_rslora: false,
  };
  return [
    await writeSafetensorsFile(join(dir, 'adapter_model.safetensors'), tensors, 'f32'),
    await writeAtomically(join(dir, 'adapter_config.json'), textChunk(`${JSON.stringify(config, undefined, 2)}\n`)),
  ];
}
