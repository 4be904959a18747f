import type { VersionManifest } from '../../src/learn/model/version.ts';
import { manifestHash } from '../../src/loop/registry/index.ts';
import type { insertVersion } from '../../src/store/versions.ts';

/** A version row's content with files that exist nowhere: for tests of rows alone. `seed` makes it differ from the others. */
export function manifest(seed: number, parent: number | null = null): Parameters<typeof insertVersion>[1] {
  const sha256 = seed.toString(16).padStart(64, '0');
  const content: VersionManifest = {
    base: { name: 'scratch', sha256 },
    model: { file: `blobs/${sha256}.gguf`, sha256, bytes: 1_000 + seed, quantization: 'f32', parameters: 10 },
    heads: {},
  };
  return {
    name: 'learnd',
    manifest: content,
    sha256: manifestHash(content),
    parent,
    round: null,
    epsilon: 0,
    evaluation: null,
  };
}
