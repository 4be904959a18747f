import { groupByLength, padBatch } from '../model/engine/batch.ts';
import { embed, runBlocks } from '../model/engine/forward.ts';
import type { EngineModel } from '../model/engine/index.ts';
import { tensorflow } from '../tensor/backend.ts';

/** What is asked of each feed-forward neuron's activation: E x, sqrt(E x^2), E |x|, over a unit's tokens. */
export const CHANNELS = ['mean', 'rms', 'meanAbs'] as const;
export type Channel = (typeof CHANNELS)[number];

/** One unit's own statistics: a function of its text, the model and nothing else. */
export interface UnitStatistics {
  /** [layers][ffn] of each channel asked for. */
  readonly channels: Readonly<Partial<Record<Channel, readonly Float32Array[]>>>;
  /** 1 - mean cos(block input, block output). [layers] */
  readonly influence: Float32Array;
}

export interface UnitPass {
  readonly channels: readonly Channel[];
  /** Padded tokens that are worked on at once. Default 1024. */
  readonly maxTokens?: number;
  readonly onProgress?: (done: number, total: number) => void | Promise<void>;
}

/**
 * Statistics of each unit that has tokens, one after another, each forgotten when `visit` returns: of 1,000 units of SmolLM2-135M they
 * would be 370 MB.
 * @param units their sequences in tokens
 */
export async function eachUnit(
  model: EngineModel,
  units: readonly (readonly (readonly number[])[])[],
  { channels, maxTokens = 1024, onProgress }: UnitPass,
  visit: (unit: number, statistics: UnitStatistics) => void,
): Promise<void> {
  const filled = units.map(unit => unit.filter(sequence => sequence.length > 0));
  const order = filled.map((_, u) => u).filter(u => filled[u]!.length > 0);
  for (let at = 0; at < order.length; ) {
    const group: number[] = [];
    let tokens = 0;
    while (at < order.length && (group.length === 0 || tokens < maxTokens)) {
      tokens += filled[order[at]!]!.reduce((sum, sequence) => sum + sequence.length, 0);
      group.push(order[at++]!);
    }
    const found = groupStatistics(
      model,
      group.map(u => filled[u]!),
      channels,
      maxTokens,
    );
    for (const [i, u] of group.entries()) visit(u, found[i]!);
    await onProgress?.(at, order.length);
  }
}

function groupStatistics(
  model: EngineModel,
  units: readonly (readonly (readonly number[])[])[],
  channels: readonly Channel[],
  maxTokens: number,
): UnitStatistics[] {
  const tf = tensorflow();
  const { ffn, layers, hidden } = model.config;
  const flat = units.flatMap((unit, u) => unit.map(sequence => ({ sequence, u })));
  const sums = units.map(() => ({
    channels: Object.fromEntries(
      channels.map(channel => [channel, ffn.map(width => new Float32Array(width))]),
    ) as Record<Channel, Float32Array[]>,
    influence: new Float32Array(layers),
    tokens: 0,
  }));
  const lengths = flat.map(({ sequence }) => sequence.length);
  for (const part of groupByLength(lengths, maxTokens)) {
    const members = part.map(i => flat[i]!);
    const batch = padBatch(
      members.map(m => m.sequence),
      model.config,
    );
    const { length } = batch;
    const real = new Float32Array(members.length * length);
    for (const [b, count] of batch.lengths.entries()) {
      real.fill(1, b * length, b * length + count);
      sums[members[b]!.u]!.tokens += count;
    }
    const mask = tf.tensor3d(real, [members.length, length, 1]);
    const embedded = embed(model, batch);
    const last = runBlocks(model, embedded, batch, {
      watch: (layer, { x, y, inner }) => {
        const width = ffn[layer]!;
        const masked = tf.mul(tf.reshape(inner, [members.length, length, width]), mask);
        for (const channel of channels) {
          const term = channel === 'mean' ? masked : channel === 'rms' ? tf.square(masked) : tf.abs(masked);
          const rows = tf.sum(term, 1).dataSync();
          for (const [b, { u }] of members.entries()) {
            const into = sums[u]!.channels[channel][layer]!;
            for (let j = 0; j < width; j++) into[j]! += rows[b * width + j]!;
          }
        }
        const [from, to] = [x, y].map(t => tf.reshape(t, [members.length, length, hidden]));
        const along = tf.sum(tf.mul(from!, to!), -1, true);
        const norms = tf.mul(tf.sum(tf.square(from!), -1, true), tf.sum(tf.square(to!), -1, true));
        const cosines = tf.sum(tf.mul(tf.divNoNan(along, tf.sqrt(norms)), mask), [1, 2]).dataSync();
        for (const [b, { u }] of members.entries()) sums[u]!.influence[layer]! += cosines[b]!;
      },
    });
    for (const tensor of [embedded, last, mask]) tensor.dispose();
  }
  return sums.map(({ channels: all, influence, tokens }) => {
    for (const channel of channels)
      for (const values of all[channel])
        for (let j = 0; j < values.length; j++) {
          const mean = values[j]! / tokens;
          values[j] = channel === 'rms' ? Math.sqrt(mean) : mean;
        }
    return { channels: all, influence: influence.map(sum => 1 - sum / tokens) };
  });
}
