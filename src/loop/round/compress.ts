import { join } from 'node:path';
import { perplexity, perplexityChange } from '../../learn/metrics/perplexity.ts';
import type { CompressionFigure, VersionManifest } from '../../learn/model/version.ts';
import { PUBLIC_SENTENCES } from '../../learn/training/public-text.ts';
import type { ModelResult, TextScore } from '../../learn/worker/types.ts';
import { publicTexts } from '../../store/round-rows.ts';
import { noteProgress, type RoundRow } from '../../store/rounds.ts';
import { failed } from './check.ts';
import { distilled } from './distill.ts';
import { freshFolder, keep, languageFiles, removeFolder } from './files.ts';
import type { Step } from './machine.ts';
import type { RoundPorts } from './ports.ts';
import { merged } from './train-parts.ts';
import { workOf } from './work.ts';

/** Newest documents of public sources that calibration looks at, beside the sentences that come with learnd. */
const CALIBRATION_DOCUMENTS = 128;

/** Needs nobody's documents, so a card can always say what a step cost. */
const MEASURED_ON = PUBLIC_SENTENCES.slice(0, 48);

/** Prunes, distils and quantizes by public text, or what was released of private text before, which costs no more privacy; heads name their own feature file and are carried over. */
export function compressStep(ports: RoundPorts): Step {
  return async (round, signal) => {
    const { compression = {}, manifest, trained = [] } = workOf(round);
    const { prune, distill, quantize } = compression;
    if (!manifest || (!prune && !distill && !quantize)) return { to: 'compressed' };
    const folder = await freshFolder(ports.settings.data, round.id);
    const worker = ports.openWorker();
    const call = { signal, onProgress: (progress: unknown) => note(ports, round, progress) };
    const notes: string[] = [...(workOf(round).notes ?? [])];
    const compressed: CompressionFigure[] = [];
    let next: VersionManifest = manifest;
    const score = async (): Promise<readonly TextScore[]> => {
      const scores = await worker.perplexity(await languageFiles(ports.artifacts, next), MEASURED_ON, { signal });
      if (!scores.every(({ nll }) => Number.isFinite(nll)))
        throw failed('the smaller model gives losses that are not finite');
      return scores;
    };
    let scores: readonly TextScore[];
    const take = async (step: CompressionFigure['step'], result: ModelResult): Promise<void> => {
      const { adapter: _, ...rest } = next;
      const blob = await keep(ports.artifacts, result.file, 'gguf');
      next = { ...rest, model: { ...blob, quantization: result.quantization, parameters: result.parameters } };
      notes.push(...result.notes);
      const after = await score();
      const { change, standardError } = perplexityChange(scores, after)!;
      compressed.push({
        step,
        perplexity_before: perplexity(scores).perplexity!,
        perplexity: perplexity(after).perplexity!,
        change,
        change_standard_error: standardError,
      });
      scores = after;
    };
    try {
      scores = await score();
      if (prune) {
        const before = next.model.parameters;
        const released = trained.find(part => part.statistics !== undefined)?.statistics;
        const texts = async () => [...PUBLIC_SENTENCES, ...(await publicTexts(ports.db, CALIBRATION_DOCUMENTS))];
        const calibration = released === undefined ? await texts() : [];
        const files = await languageFiles(ports.artifacts, next);
        const result = await worker.call(
          'prune',
          {
            ...{ files, ...prune, calibration, threads: worker.threads, out: join(folder, 'pruned.gguf') },
            ...(released && { statistics: await ports.artifacts.path(released) }),
          },
          call,
        );
        if (!(result.parameters < before))
          throw failed(`pruning left ${result.parameters} of ${before} parameters: nothing shrank`);
        await take('prune', result);
      }
      if (distill) {
        if (next.adapter) next = await merged({ ports, worker, folder, call }, next);
        const { result, note: said } = await distilled({ ports, worker, folder, call }, distill, manifest, next);
        await take('distill', result);
        notes.push(said);
      }
      if (quantize) {
        // Other weights under the same adapter would be another model than the one measured: the adapter goes in first.
        if (next.adapter) next = await merged({ ports, worker, folder, call }, next);
        const model = await ports.artifacts.path(next.model);
        const out = join(folder, 'quantized.gguf');
        await take('quantize', await worker.call('quantize', { model, type: quantize, out }, call));
      }
    } finally {
      await worker.close();
      await removeFolder(ports.settings.data, round.id);
    }
    return { to: 'compressed', work: { manifest: next, notes, compressed } };
  };
}

function note(ports: RoundPorts, round: RoundRow, progress: unknown): void {
  noteProgress(ports.db, round.id, progress).catch(error =>
    ports.log.debug('progress was not noted', { round: round.id, error }),
  );
}
