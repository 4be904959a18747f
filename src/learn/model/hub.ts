import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { LearndError } from '../../base/errors.ts';
import { HUB, HUB_FILES } from './base-sources.ts';
import { writeAtomically } from './formats/atomic-file.ts';
import type { ResolveOptions } from './resolve-options.ts';

const hubOf = (options: ResolveOptions): string => options.hub ?? HUB;

function unreachable(id: string, hub: string, why: string, cause?: unknown): LearndError {
  return new LearndError('dependency', `base: ${id} could not be fetched from ${hub}: ${why}`, {
    field: 'base',
    hint: 'Check the network, or download the model elsewhere and set base to its folder or GGUF file.',
    cause,
  });
}

async function get(id: string, file: string, options: ResolveOptions): Promise<Response> {
  try {
    return await fetch(`${hubOf(options)}/${id}/resolve/main/${file}`, { signal: options.signal ?? null });
  } catch (cause) {
    const inner = (cause as { cause?: { code?: string } }).cause?.code;
    throw unreachable(id, hubOf(options), inner ?? (cause as Error).message, cause);
  }
}

/** One file into the folder, unless it is there already. Returns false where the hub has no such file. */
async function fetchFile(id: string, file: string, folder: string, options: ResolveOptions): Promise<boolean> {
  const path = join(folder, file);
  if (existsSync(path)) return true;
  const response = await get(id, file, options);
  if (response.status === 404) return false;
  if (response.status === 401 || response.status === 403) {
    throw new LearndError('forbidden', `base: ${id} is not public on ${hubOf(options)}`, {
      field: 'base',
      hint: 'Download it with your own account and set base to its folder.',
      retriable: false,
    });
  }
  if (!response.ok || response.body === null)
    throw unreachable(id, hubOf(options), `${file}: HTTP status ${response.status}`);
  const total = Number(response.headers.get('content-length') ?? 0) || undefined;
  const body = response.body;
  await writeAtomically(
    path,
    (async function* () {
      let bytes = 0;
      let told = 0;
      for await (const chunk of body) {
        bytes += chunk.length;
        if (bytes - told > 4e6 || told === 0) {
          told = bytes;
          options.onProgress?.({ message: `downloading ${id} ${file}`, bytes, total });
        }
        yield chunk as Uint8Array;
      }
      if (total !== undefined && bytes !== total)
        throw unreachable(id, hubOf(options), `${file} ended after ${bytes} of ${total} bytes`);
    })(),
  );
  return true;
}

/** Fetches a model folder (configuration, tokenizer, safetensors) by its hub id; files already there are kept. */
export async function fetchHubModel(id: string, options: ResolveOptions): Promise<string> {
  const folder = join(options.cacheDir, 'hub', id.replaceAll('/', '--'));
  for (const file of HUB_FILES) {
    if (!(await fetchFile(id, file, folder, options))) {
      throw new LearndError('not_found', `base: ${hubOf(options)} has no ${file} for ${id}`, {
        field: 'base',
        hint: 'Check the id; the model must have config.json, tokenizer.json and safetensors.',
        retriable: false,
      });
    }
  }
  if (existsSync(join(folder, 'model.safetensors'))) return folder; // whole already: no need to be online
  const index = 'model.safetensors.index.json';
  const files = (await fetchFile(id, index, folder, options))
    ? shards(JSON.parse(await readFile(join(folder, index), 'utf8')) as { weight_map?: Record<string, string> })
    : ['model.safetensors'];
  for (const file of files) {
    if (!(await fetchFile(id, file, folder, options))) throw unreachable(id, hubOf(options), `${file} is missing`);
  }
  return folder;
}

function shards(index: { weight_map?: Record<string, string> }): string[] {
  const files = [...new Set(Object.values(index.weight_map ?? {}))];
  if (files.some(file => !/^[\w.-]+\.safetensors$/.test(file))) {
    throw new LearndError('corrupt', 'the index of the weights names a file outside its folder', { retriable: false });
  }
  return files;
}
