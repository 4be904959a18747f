import { invalid } from '../../base/errors.ts';
import type { EngineModel } from '../model/engine/model.ts';
import { HiddenCache } from '../model/engine/units.ts';
import type { DpPlan } from '../privacy/index.ts';
import type { Method } from './trainables.ts';
import { type TrainProgress, type TrainRequest, type TrainResult, trainToEnd } from './trainer.ts';
import {
  countVocabulary,
  denseBias,
  releaseCounts,
  tidy,
  type VocabularyBias,
  type VocabularyCounts,
  type VocabularyRelease,
} from './vocabulary-bias.ts';

/**
 * Training on documents in up to two parts: one histogram of tokens, whose bias is added to the logits, and steps on top of it,
 * with that bias in the forward pass. Both are told of the same units; what enters the trained blocks is computed once for both.
 */
export interface DocumentsRequest
  extends Pick<TrainRequest, 'model' | 'units' | 'adapter' | 'maxTokens' | 'cacheBytes' | 'maxSeconds' | 'signal'> {
  /** A bias that the model carries already: in the forward pass of both parts; the result is it and the new one together. */
  readonly bias?: VocabularyBias;
  /**
   * One release over every unit; `plan` undefined: without clipping and noise (public text). `counts`: of these very units by
   * `countVocabulary`, where they have been made before.
   */
  readonly histogram?: { readonly plan: DpPlan | undefined; readonly counts?: VocabularyCounts };
  /** Public text in tokens, for the histogram (`VocabularyBiasRequest`). */
  readonly publicText?: readonly (readonly number[])[];
  /** A cache of the units' examples at the first block that the steps train, to share with other trainings on them. */
  readonly lower?: { readonly cache: HiddenCache; readonly from: number };
  readonly steps?: Pick<
    TrainRequest,
    | 'method'
    | 'plan'
    | 'steps'
    | 'batch'
    | 'optimizer'
    | 'schedule'
    | 'seed'
    | 'ema'
    | 'checkpoint'
    | 'resume'
    | 'beside'
    | 'objective'
  > & {
    /** Of as many units: their examples with variants, in place of `units`, which a histogram counts as they are. */
    readonly units?: TrainRequest['units'];
  };
  /**
   * Asked after the histogram, with the number of units that it counted (under its noise, so asking costs nothing more): why the
   * steps are not worth theirs. undefined: they are taken.
   */
  readonly notWorth?: (units: number) => string | undefined;
  readonly onHistogram?: (done: number, total: number) => void | Promise<void>;
  readonly onStep?: (progress: TrainProgress) => void;
}

export interface DocumentsResult {
  /** The whole bias of the model from now on; undefined where it has none. */
  readonly bias: VocabularyBias | undefined;
  readonly release: VocabularyRelease | undefined;
  readonly steps: TrainResult | undefined;
  /**
   * Why nothing is to be published: too few tokens stood out of the noise. Steps were not taken, the bias is the old one; the
   * histogram was released and counts.
   */
  readonly nothing: string | undefined;
  /** What people should know: all of it follows from noised figures. */
  readonly notes: readonly string[];
}

/** @throws LearndError('invalid') when there is nothing to do, and as `releaseVocabulary` and `train` do. */
export async function trainDocuments(request: DocumentsRequest): Promise<DocumentsResult> {
  const { model, units, histogram, steps } = request;
  const { vocabSize } = model.config;
  if (histogram === undefined && steps === undefined)
    throw invalid('method', 'neither a histogram nor steps: nothing to train');
  const started = performance.now();
  const before = request.bias !== undefined && request.bias.length > 0 ? request.bias : undefined;
  const lower = lowerOf(request);
  const notes: string[] = [];
  let bias = before;
  let release: VocabularyRelease | undefined;
  if (histogram !== undefined) {
    const counts =
      histogram.counts ??
      (await countVocabulary({
        ...{ model, units, plan: histogram.plan, adapter: request.adapter, maxTokens: request.maxTokens, lower },
        ...(before && { tokenBias: denseBias(before, vocabSize) }),
        ...(request.publicText && { publicText: request.publicText }),
        onProgress: async (done, total) => {
          request.signal?.throwIfAborted();
          await request.onHistogram?.(done, total);
        },
      }));
    release = releaseCounts(counts, histogram.plan);
    const { passed, least } = release;
    const said = `${passed} tokens stood out of the histogram's noise (at least ${least} are asked for), ${release.units} units counted`;
    if (passed < least)
      return { bias: before, release, steps: undefined, nothing: `too little to publish: ${said}`, notes: [] };
    notes.push(said);
    bias = addBiases(before ?? [], release.bias);
    const why = steps && request.notWorth?.(release.units);
    if (why !== undefined) return { bias, release, steps: undefined, nothing: undefined, notes: [...notes, why] };
  }
  if (steps === undefined) return { bias, release, steps: undefined, nothing: undefined, notes };
  const seconds = (performance.now() - started) / 1000;
  const trained = await trainToEnd(
    {
      ...{ model, units, maxTokens: request.maxTokens, signal: request.signal, cacheBytes: request.cacheBytes },
      ...steps,
      ...(request.adapter && steps.method.kind !== 'lora' && { adapter: request.adapter }),
      ...(bias && { tokenBias: denseBias(bias, vocabSize) }),
      ...(lower && { cache: lower.cache }),
      ...(request.maxSeconds !== undefined && { maxSeconds: Math.max(0, request.maxSeconds - seconds) }),
    },
    request.onStep,
  );
  return { bias, release, steps: trained, nothing: undefined, notes };
}

/** The cache that both parts share: worth its memory when there are two. */
function lowerOf({ model, units, histogram, steps, lower, maxTokens = 1024, cacheBytes = 2 ** 30 }: DocumentsRequest) {
  if (lower !== undefined || steps === undefined || histogram === undefined) return lower;
  const from = firstTrained(model, steps.method);
  if (from === 0) return undefined;
  return { cache: new HiddenCache(cacheBytes, (steps.units ?? units).flat(), model.config.hidden, maxTokens), from };
}

const firstTrained = (model: EngineModel, method: Method): number =>
  'layers' in method && method.layers !== undefined ? model.config.layers - method.layers : 0;

/** Sums of biases stay in what a sampler can bear. */
const LARGEST_SUM = 8;

/** Token by token, in order of ids. */
export function addBiases(a: VocabularyBias, b: VocabularyBias): VocabularyBias {
  const sum = new Map(a);
  for (const [token, value] of b) sum.set(token, (sum.get(token) ?? 0) + value);
  return [...sum]
    .filter(([, value]) => value !== 0)
    .sort(([x], [y]) => x - y)
    .map(([token, value]) => [token, tidy(Math.max(-LARGEST_SUM, Math.min(LARGEST_SUM, value)))]);
}
