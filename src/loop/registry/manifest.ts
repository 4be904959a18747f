import { createHash } from 'node:crypto';
import { canonicalJson } from '../../base/canonical.ts';
import type { Blob, VersionManifest } from '../../learn/model/version.ts';

/** Lower-case hex over the canonical manifest: the same parts give the same hash, in whatever order they were put together. */
export const manifestHash = (manifest: VersionManifest): string =>
  createHash('sha256').update(canonicalJson(manifest)).digest('hex');

/** Every file a version needs, each once. */
export function blobsOf(manifest: VersionManifest): Blob[] {
  const blobs: Blob[] = [manifest.model];
  if (manifest.adapter) blobs.push(manifest.adapter);
  if (manifest.logit_bias) blobs.push(manifest.logit_bias);
  for (const head of Object.values(manifest.heads)) blobs.push(head, head.features);
  return [...new Map(blobs.map(blob => [blob.file, blob])).values()];
}
