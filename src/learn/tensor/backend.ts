import { createRequire } from 'node:module';
import util from 'node:util';
import type * as TfjsNode from '@tensorflow/tfjs-node';
import { LearndError } from '../../base/errors.ts';

/** The whole of @tensorflow/tfjs-node. */
export type Tensorflow = typeof TfjsNode;
export type Tensor = TfjsNode.Tensor;

let loaded: Tensorflow | undefined;

/**
 * Native TensorFlow, loaded on first use (0.5 s, 250 MB resident), so that what only imports the engine pays nothing.
 * `threads` takes effect on the first call alone: TensorFlow reads its pools' sizes when it is loaded.
 * @throws LearndError('dependency') when the native part is missing or broken.
 */
export function tensorflow(options: { threads?: number } = {}): Tensorflow {
  loaded ??= load(options.threads);
  return loaded;
}

function load(threads: number | undefined): Tensorflow {
  restoreUtilFunctions();
  // These five are TensorFlow's own interface for settings that it reads while it is loaded; there is no call for them.
  const env = process.env;
  env.TF_CPP_MIN_LOG_LEVEL ??= '2';
  if (threads !== undefined) {
    env.TF_NUM_INTRAOP_THREADS = String(threads);
    env.OMP_NUM_THREADS = String(threads);
  }
  // TensorFlow's own choice is by the processor's generation (AVX-512 with VNNI). Without it on an AVX2 core, products ran at 26 to
  // 86 GFLOPS by orientation and size; with it at 84 to 92 for all of them.
  env.TF_ENABLE_ONEDNN_OPTS ??= '1';
  // Ops of one step depend on each other, so a second pool to run them side by side only takes time from the first.
  env.TF_NUM_INTEROP_THREADS ??= '1';
  try {
    const tf = createRequire(import.meta.url)('@tensorflow/tfjs-node') as Tensorflow;
    if (tf.getBackend() !== 'tensorflow') throw new Error(`the backend is '${tf.getBackend()}', not native TensorFlow`);
    tf.enableProdMode();
    return tf;
  } catch (cause) {
    throw new LearndError('dependency', 'native TensorFlow (@tensorflow/tfjs-node) cannot be loaded', {
      hint: 'Run `npm run setup`: it fetches and builds the native part, or lists what is missing.',
      retriable: false,
      cause,
    });
  }
}

/** tfjs-node 4.22 calls two helpers that Node 23 removed from `util`. */
function restoreUtilFunctions(): void {
  const old = util as unknown as Record<string, unknown>;
  old.isNullOrUndefined ??= (value: unknown) => value === null || value === undefined;
  old.isArray ??= Array.isArray;
}
