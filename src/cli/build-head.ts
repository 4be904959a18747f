import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { weightedF1 } from '../learn/metrics/f1.ts';

/** A text and its label. */
export interface LabelledRow {
  readonly text: string;
  readonly label: string;
}

export interface HeadRows {
  readonly train: readonly LabelledRow[];
  readonly test: readonly LabelledRow[];
  /** Blocks that features are read from. Default: the first third, as rounds do. */
  readonly layers?: number;
}

/**
 * Weighted F1 on the test rows of a head that is trained on the others without noise, on frozen features of `model` read through
 * llama.cpp: what the model's hidden states are good for, however it writes. Null for a model whose layers have several widths, which
 * gives no features.
 */
export async function headF1(model: string, { train, test, layers }: HeadRows): Promise<number | null> {
  const { openModel } = await import('../learn/model/open.ts');
  const { writeFeatureModel } = await import('../learn/model/export.ts');
  const { headScores } = await import('../learn/model/head.ts');
  const { openGguf } = await import('../learn/llama/index.ts');
  const { labelSentences, trainHead } = await import('../learn/training/head.ts');
  const { PUBLIC_SENTENCES } = await import('../learn/training/public-text.ts');
  const checkpoint = await openModel(model);
  const layer = layers ?? Math.max(1, Math.round(checkpoint.config.layers / 3));
  if (new Set(checkpoint.config.ffn.slice(0, layer)).size > 1) return null;
  const labels = [...new Set(train.map(row => row.label))].sort();
  const folder = mkdtempSync(join(tmpdir(), 'learnd-features-'));
  try {
    const file = join(folder, 'features.gguf');
    await writeFeatureModel(checkpoint, layer, file, 'q8_0');
    const loaded = await openGguf(file);
    const extractor = await loaded.createFeatureExtractor();
    try {
      const labelFeatures: Float32Array[][] = [];
      for (const label of labels) labelFeatures.push(await extractor.features(labelSentences(label)));
      const features = await extractor.features(train.map(row => row.text));
      const { head } = await trainHead({
        ...{ task: 'label', labels, labelFeatures, privacy: null, layer, featuresSha256: '' },
        units: train.map(({ label }, i) => ({
          user: String(i),
          examples: [{ feature: features[i]!, label: labels.indexOf(label) }],
        })),
        publicFeatures: await extractor.features(PUBLIC_SENTENCES),
      });
      const predicted = (await extractor.features(test.map(row => row.text))).map(feature => {
        const scores = headScores(head, feature);
        return labels[scores.indexOf(Math.max(...scores))]!;
      });
      return weightedF1(
        test.map(row => row.label),
        predicted,
      ).weighted;
    } finally {
      await extractor.dispose();
      await loaded.dispose();
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
