import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { backGenerate, MeaningCheck, openChatModel, paraphrase } from '../../src/learn/augment/by-model.ts';
import type { ModelOperation } from '../../src/learn/augment/index.ts';
import { resolveBase } from '../../src/learn/model/base.ts';

/** Who writes to whom: all that back-generation is told beside a label. */
const ABOUT = 'a customer writes to a bank';

export interface ModelTexts {
  /** Variants of each row. */
  readonly groups: readonly (readonly string[])[];
  /** Texts written for each label. */
  readonly more: readonly (readonly string[])[];
}

/** What SmolLM2-135M writes: `count` paraphrases of each row, or `count` new texts for each label. Minutes of a core. */
export async function modelTexts(
  operation: ModelOperation,
  rows: readonly { readonly text: string; readonly label: string }[],
  labels: readonly string[],
  options: { models: string; seed: string; count: number; log: (line: string) => void },
): Promise<ModelTexts> {
  const { seed, count, log } = options;
  const model = await openChatModel((await resolveBase('smollm2-135m', { cacheDir: options.models })).path);
  const folder = mkdtempSync(join(tmpdir(), 'learnd-bench-augment-'));
  try {
    const meaning = await MeaningCheck.open(model.checkpoint, labels, folder);
    try {
      const asked = { model, meaning, seed, count };
      const made =
        operation === 'paraphrase'
          ? await paraphrase(rows, asked)
          : await backGenerate(
              labels.map(label => ({ label })),
              { ...asked, about: ABOUT },
            );
      const texts = made.groups.map(group => group.map(variant => variant.text));
      log(
        `${operation}: asked ${made.asked}, kept ${texts.flat().length}, turned down ${JSON.stringify(made.rejected)}`,
      );
      return operation === 'paraphrase' ? { groups: texts, more: [] } : { groups: [], more: texts };
    } finally {
      await meaning.close();
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
    await model.close();
  }
}
