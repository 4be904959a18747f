import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { LearndError } from '../../base/errors.ts';
import { cacheFolder } from '../../base/settings.ts';
import { resolveBase } from '../../learn/model/base.ts';
import { describeModel } from '../../learn/model/describe.ts';
import type { Card, VersionManifest } from '../../learn/model/version.ts';
import { aliasVersion, type VersionRow } from '../../store/versions.ts';
import type { RoundPorts } from './ports.ts';

/**
 * Version 1: the base a deployment starts from, fetched, or pre-trained here for `base: scratch`. Its card is measured by the
 * first round, when there is something to measure it on. A deployment that has a champion is left alone.
 * @throws LearndError where the base cannot be had; 'canceled'.
 */
export async function bootstrap(ports: RoundPorts, signal: AbortSignal): Promise<VersionRow> {
  const { db, settings, artifacts } = ports;
  const log = ports.log.child('base');
  const champion = await aliasVersion(db, 'champion');
  if (champion) return champion;
  const cacheDir = join(cacheFolder(), 'models');
  let told = 0;
  const base = await resolveBase(settings.base, {
    cacheDir,
    signal,
    scratch: () => pretrain(ports, cacheDir, signal),
    onProgress: ({ message, bytes, total }) => {
      const now = Date.now();
      if (bytes !== undefined && bytes !== total && now - told < 2_000) return;
      told = now;
      log.info(message, {
        ...(bytes === undefined ? {} : { mb: Math.round(bytes / 1e6) }),
        ...(total === undefined ? {} : { of: Math.round(total / 1e6) }),
      });
    },
  });
  if (signal.aborted) throw new LearndError('canceled', 'the start was called off');
  const facts = await describeModel(base.path);
  const blob = await artifacts.put(base.path, 'gguf');
  const manifest: VersionManifest = {
    base: { name: base.name, sha256: blob.sha256 },
    model: { ...blob, ...facts },
    heads: {},
  };
  const card: Card = {
    perplexity: null,
    perplexity_standard_error: null,
    f1: null,
    parameters: facts.parameters,
    size_mb: blob.bytes / 1e6,
    tokens_per_second: null,
  };
  const version = await db.tx(async tx => {
    const already = await aliasVersion(tx, 'champion');
    if (already) return already;
    const row = await ports.registry.createVersion(tx, artifacts, {
      name: settings.name,
      manifest,
      parent: null,
      round: null,
      epsilon: 0,
      evaluation: card,
    });
    await ports.registry.promoteIn(tx, { version: row.n, reason: `base ${base.name}`, fence: ports.fence });
    return row;
  });
  log.info('ready', { version: `${version.name}@${version.n}`, parameters: facts.parameters });
  return version;
}

/** Changes with the text, the shape or the training of the scratch model. */
const SCRATCH = 'scratch-1.gguf';

/** A small model made here, in a worker of its own; from public text and a fixed seed, so once for every deployment of this user. */
async function pretrain(ports: RoundPorts, cacheDir: string, signal: AbortSignal): Promise<string> {
  const path = join(cacheDir, SCRATCH);
  if (existsSync(path)) return path;
  const worker = ports.openWorker();
  const log = ports.log.child('base');
  let told = 0;
  try {
    const { file } = await worker.call(
      'pretrain-scratch',
      { out: path, threads: worker.threads },
      {
        signal,
        onProgress: ({ done, total }) => {
          const now = Date.now();
          if (now - told < 2_000 && done < total) return;
          told = now;
          log.info('pre-training a small model', { step: done, of: total });
        },
      },
    );
    return file.path;
  } finally {
    await worker.close();
  }
}
