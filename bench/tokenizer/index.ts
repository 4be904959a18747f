import { join } from 'node:path';
import { LearndError } from '../../src/base/errors.ts';
import { alternate, type BenchOptions, median, type Row } from '../kit.ts';

export const name = 'tokenizer';
export const title = 'Tokenizer: training and encoding against Hugging Face tokenizers, one thread, BANKING77';

interface Trained {
  readonly seconds: number;
  readonly merges: ([string, string] | string)[];
}
interface Encoded {
  readonly seconds: number;
  readonly ids: number[][];
}

/** A fresh tokenizer each time, so that no cache of an earlier round helps; the peer loads its own anew too. */
export async function run({ quick, log }: BenchOptions): Promise<Row[]> {
  const { banking77, missingBanking77 } = await import('../banking77.ts');
  const { cacheFolder } = await import('../../src/base/settings.ts');
  const { resolveBase } = await import('../../src/learn/model/base.ts');
  const { openModel } = await import('../../src/learn/model/open.ts');
  const { BpeTokenizer } = await import('../../src/learn/model/tokenizer/bpe.ts');
  const { tokenizerJson } = await import('../../src/learn/model/tokenizer/hf-json.ts');
  const { trainBpe } = await import('../../src/learn/model/tokenizer/train.ts');
  const { peerPython, startPeer } = await import('../peers/environment.ts');
  const missing = missingBanking77();
  if (missing !== undefined) throw new LearndError('dependency', missing);
  const texts = banking77('train')
    .map(row => row.text)
    .slice(0, quick ? 500 : undefined);
  const vocab = quick ? 500 : 4000;
  const rounds = quick ? 1 : 5;
  const base = await resolveBase('smollm2-135m', { cacheDir: join(cacheFolder(), 'models') });
  const { tokenizer } = await openModel(base.path);
  if (!(tokenizer instanceof BpeTokenizer)) throw new LearndError('internal', 'the base has no byte-level BPE');
  const json = tokenizerJson(tokenizer.spec);
  const bytes = texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0);
  const peer = startPeer(peerPython(log), join(import.meta.dirname, 'peer.py'), [], 1);
  try {
    let ours: string[] = [];
    let theirs: string[] = [];
    const training = await alternate(
      {
        ours: async () => {
          const began = performance.now();
          const { spec } = trainBpe(texts, vocab);
          const seconds = (performance.now() - began) / 1000;
          ours = spec.merges.map(pair => pair.join(' '));
          return seconds;
        },
        theirs: async () => {
          const { seconds, merges } = await peer.ask<Trained>({ do: 'train', texts, vocab });
          theirs = merges.map(merge => (typeof merge === 'string' ? merge : merge.join(' ')));
          return seconds;
        },
      },
      rounds,
    );
    let ids: number[][] = [];
    const encoding = await alternate(
      {
        ours: async () => {
          const fresh = new BpeTokenizer(tokenizer.spec);
          const began = performance.now();
          ids = texts.map(text => fresh.encode(text));
          return (performance.now() - began) / 1000;
        },
        theirs: async () => (await peer.ask<Encoded>({ do: 'encode', tokenizer: json, texts })).seconds,
      },
      rounds,
    );
    const check = await peer.ask<Encoded>({ do: 'encode', tokenizer: json, texts, ids: true });
    const detail = (s: Record<'ours' | 'theirs', number[]>): string =>
      `ours ${median(s.ours).toFixed(3)} s, Hugging Face ${median(s.theirs).toFixed(3)} s, medians of ${rounds}`;
    const same = ours.filter((merge, i) => merge === theirs[i]).length;
    const alike = ids.filter((of, i) => of.join() === check.ids[i]!.join()).length;
    return [
      {
        what: `merges equal to BpeTrainer's, of ${theirs.length}`,
        value: same === ours.length ? same / theirs.length : 0,
        ...{ unit: 'x', least: 1 },
      },
      { what: `texts encoded alike, of ${texts.length}`, value: alike / texts.length, unit: 'x', least: 1 },
      {
        what: 'training, time against theirs',
        value: median(training.ours) / median(training.theirs),
        ...{ unit: 'x', detail: detail(training) },
      },
      {
        what: 'encoding, speed against theirs',
        value: median(encoding.theirs) / median(encoding.ours),
        ...{ unit: 'x', goal: 1, detail: detail(encoding) },
      },
      { what: 'encoding, ours', value: bytes / 1e6 / median(encoding.ours), unit: 'MB/s' },
    ];
  } finally {
    await peer.close();
  }
}
