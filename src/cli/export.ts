import { createReadStream, existsSync, mkdirSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { invalid } from '../base/errors.ts';
import { quantizeModel } from '../learn/compress/quantize.ts';
import { mergeLora, sha256OfFile, writePeft, writeSafetensors } from '../learn/model/export.ts';
import { writeAtomically } from '../learn/model/formats/atomic-file.ts';
import { readLoraGguf } from '../learn/model/lora.ts';
import { openModel } from '../learn/model/open.ts';
import type { VersionManifest } from '../learn/model/version.ts';
import { modelPath } from './model-path.ts';

export interface Exported {
  readonly files: { readonly path: string; readonly sha256: string }[];
  /** GGUF of a given type: how many tensors are of each. */
  readonly tensors?: Readonly<Record<string, number>>;
  /** What the format cannot carry. */
  readonly notes: readonly string[];
}

/** No format of weights has a place for what a sampler adds. */
const BIAS_NOTE =
  'the version adds a bias to its logits, which none of these formats can carry: logit_bias.json holds [[token id, bias], …]; give it to the sampler (llama.cpp: --logit-bias), else the files alone answer differently';

export interface Source {
  readonly model: string;
  readonly adapter?: string;
  readonly heads: readonly string[];
  readonly logitBias?: string;
}

const FLOATS = ['f32', 'f16', 'bf16'] as const;

/** A version of a running daemon (`name@N`), or a path. */
export async function sourceOf(model: string, data: string | undefined): Promise<Source> {
  if (!model.includes('@') || existsSync(model)) return { model: await modelPath(model), heads: [] };
  const { connectDaemon } = await import('./client.ts');
  const row = (await connectDaemon({ data }).get(`/v1/admin/versions/${encodeURIComponent(model)}`)) as {
    manifest: VersionManifest;
    artifacts: string;
  };
  const at = (file: string): string => resolve(row.artifacts, file);
  const { manifest } = row;
  return {
    model: at(manifest.model.file),
    ...(manifest.adapter && { adapter: at(manifest.adapter.file) }),
    heads: Object.values(manifest.heads).map(head => at(head.file)),
    ...(manifest.logit_bias && { logitBias: at(manifest.logit_bias.file) }),
  };
}

export async function run(options: {
  model: string;
  format: 'gguf' | 'safetensors' | 'peft';
  out: string;
  /** GGUF: any type that can be written (default: as it is stored; f16 of a folder). safetensors: f32 (default), f16, bf16. */
  type?: string | undefined;
  data?: string | undefined;
}): Promise<Exported> {
  const source = await sourceOf(options.model, options.data);
  mkdirSync(options.out, { recursive: true });
  const paths: string[] = [];
  const copy = async (from: string, to: string): Promise<void> => {
    await writeAtomically(join(options.out, to), createReadStream(from, { highWaterMark: 1 << 20 }));
    paths.push(join(options.out, to));
  };
  const checkpoint = await openModel(source.model);
  const adapter = source.adapter === undefined ? undefined : readLoraGguf(source.adapter, checkpoint.config);
  const notes: string[] = [];
  let tensors: Exported['tensors'];
  switch (options.format) {
    case 'gguf':
      if (checkpoint.kind === 'gguf' && options.type === undefined) await copy(source.model, 'model.gguf');
      else {
        const type = options.type ?? 'f16';
        const written = await quantizeModel(checkpoint, join(options.out, 'model.gguf'), { type, source: checkpoint });
        paths.push(written.path);
        tensors = written.types;
        notes.push(...written.notes);
      }
      if (source.adapter !== undefined) await copy(source.adapter, 'adapter.gguf');
      break;
    case 'safetensors': {
      const weights = adapter === undefined ? checkpoint.weights : mergeLora(checkpoint.weights, adapter);
      const type = FLOATS.find(name => name === (options.type ?? 'f32'));
      if (type === undefined) throw invalid('type', `safetensors hold ${FLOATS.join(', ')}, not ${options.type}`);
      paths.push(...(await writeSafetensors({ ...checkpoint, weights }, options.out, { type })).map(file => file.path));
      break;
    }
    case 'peft':
      if (adapter === undefined)
        throw invalid('format', `${options.model} has no adapter: only a LoRA version can be exported as PEFT`);
      paths.push(...(await writePeft(adapter, checkpoint, options.out)).map(file => file.path));
      break;
  }
  for (const head of source.heads) await copy(head, `head-${basename(head)}`);
  if (source.logitBias !== undefined) {
    await copy(source.logitBias, 'logit_bias.json');
    notes.push(BIAS_NOTE);
  }
  const files = [];
  for (const path of paths) files.push({ path, sha256: await sha256OfFile(path) });
  return { files, ...(tensors && { tensors }), notes };
}

export const human = (r: Exported): string =>
  [...r.files.map(f => `${f.sha256}  ${f.path}`), ...r.notes.map(n => `note: ${n}`)].join('\n');
