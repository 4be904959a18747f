import { invalid } from '../../../base/errors.ts';
import type { Tensor } from '../../tensor/backend.ts';
import { tensorflow } from '../../tensor/backend.ts';
import { batchMatMul } from '../../tensor/native.ts';
import { padBatch } from './batch.ts';
import { blockForward, feedForward } from './block.ts';
import { embed } from './forward.ts';
import { headLogits } from './head.ts';
import type { EngineAdapter, EngineModel } from './model.ts';
import { layerName } from './model.ts';
import { linear, rmsNorm, rotate } from './ops.ts';

/** Positions by which the tables of angles grow. */
const ROOM = 128;
const HIDDEN = -1e9;

/**
 * Goes on with texts token by token under the weights as they are, keeping each block's keys and values, so that a token costs one
 * row of every product and not the text before it. For short texts in training (a student's own sequences, a search); serving has
 * llama.cpp. Causal attention alone.
 */
export class Decoder {
  readonly #model: EngineModel;
  readonly #adapter: EngineAdapter | undefined;
  /** By block: rotated keys and values, [sequences * kvHeads, columns, headDim]. */
  #kept: { k: Tensor; v: Tensor }[] = [];
  /** Of each sequence, by column: 0 where there is a token of it, -1e9 where padding. */
  #seen: number[][] = [];
  /** Tokens of each sequence. */
  #lengths: number[] = [];

  constructor(model: EngineModel, adapter?: EngineAdapter) {
    this.#model = model;
    this.#adapter = adapter;
  }

  /**
   * Reads the beginnings of texts, in place of what was read before.
   * @returns logits of each one's next token [texts, vocabSize]; the caller disposes them.
   * @throws LearndError('invalid') for a text without a token
   */
  begin(texts: readonly (readonly number[])[]): Tensor {
    const empty = texts.findIndex(text => text.length === 0);
    if (empty >= 0) throw invalid('tokens', `text ${empty} has no token to go on from`);
    this.dispose();
    const tf = tensorflow();
    const model = this.#model;
    const batch = padBatch(texts, model.config);
    let x = embed(model, batch);
    for (let layer = 0; layer < model.config.layers; layer++) {
      const { y, k, v } = tf.tidy(() => {
        const { y, saved } = blockForward(model, this.#adapter, layer, x, batch);
        return { y, k: tf.keep(saved.k), v: tf.keep(saved.v) };
      });
      x.dispose();
      this.#kept.push({ k, v });
      x = y;
    }
    this.#lengths = [...batch.lengths];
    this.#seen = batch.lengths.map(own => Array.from({ length: batch.length }, (_, t) => (t < own ? 0 : HIDDEN)));
    const logits = headLogits(
      model,
      x,
      Int32Array.from(batch.lengths, (own, b) => b * batch.length + own - 1),
    );
    x.dispose();
    return logits;
  }

  /**
   * One more token for some of the texts read so far. What no text goes on from is forgotten.
   * @param from the text (by its place among those of the last call) that each token goes on from; one may go on in several ways
   * @returns logits of each one's next token [tokens.length, vocabSize]; the caller disposes them.
   */
  next(tokens: readonly number[], from: readonly number[] = tokens.map((_, i) => i)): Tensor {
    const tf = tensorflow();
    const model = this.#model;
    if (tokens.length !== from.length || from.some(i => this.#lengths[i] === undefined))
      throw invalid('from', `${tokens.length} tokens cannot go on from texts ${from.join(', ')}`);
    this.#choose(from);
    const positions = Int32Array.from(this.#lengths);
    for (const [i, seen] of this.#seen.entries()) {
      seen.push(0);
      this.#lengths[i]! += 1;
    }
    const longest = Math.max(...this.#lengths);
    const tables = model.rope(Math.ceil(longest / ROOM) * ROOM);
    const columns = this.#seen[0]!.length;
    const { angles, mask } = tf.tidy(() => {
      const at = tf.tensor1d(positions, 'int32');
      const { kvHeads, headDim } = model.config;
      const rows = (table: Tensor) => tf.reshape(tf.gather(table, at), [tokens.length, 1, 1, headDim]);
      const hidden = tf.tensor(this.#seen.flat(), [tokens.length, 1, columns]);
      const { qCos, qSin, kCos, kSin } = tables;
      return {
        angles: { qCos: rows(qCos), qSin: rows(qSin), kCos: rows(kCos), kSin: rows(kSin) },
        mask: tf.reshape(tf.tile(hidden, [1, kvHeads, 1]), [tokens.length * kvHeads, 1, columns]),
      };
    });
    let x = embed(
      model,
      padBatch(
        tokens.map(token => [token]),
        model.config,
      ),
    );
    for (let layer = 0; layer < model.config.layers; layer++) {
      const old = this.#kept[layer]!;
      const { y, k, v } = tf.tidy(() => this.#block(layer, x, old, angles, mask));
      for (const tensor of [x, old.k, old.v]) tensor.dispose();
      this.#kept[layer] = { k, v };
      x = y;
    }
    const logits = headLogits(
      model,
      x,
      Int32Array.from(tokens, (_, i) => i),
    );
    for (const tensor of [x, mask, ...Object.values(angles)]) tensor.dispose();
    return logits;
  }

  dispose(): void {
    for (const { k, v } of this.#kept.splice(0)) {
      k.dispose();
      v.dispose();
    }
    this.#lengths = [];
    this.#seen = [];
  }

  /** The rows of `from` in place of all rows. */
  #choose(from: readonly number[]): void {
    const same = from.length === this.#lengths.length && from.every((text, i) => text === i);
    if (same) return;
    const tf = tensorflow();
    const { kvHeads } = this.#model.config;
    const rows = Int32Array.from(from.flatMap(text => Array.from({ length: kvHeads }, (_, h) => text * kvHeads + h)));
    this.#kept = this.#kept.map(({ k, v }) => {
      const chosen = tf.tidy(() => {
        const at = tf.tensor1d(rows, 'int32');
        return { k: tf.keep(tf.gather(k, at)), v: tf.keep(tf.gather(v, at)) };
      });
      k.dispose();
      v.dispose();
      return chosen;
    });
    this.#lengths = from.map(text => this.#lengths[text]!);
    this.#seen = from.map(text => [...this.#seen[text]!]);
  }

  /** `blockForward` for one row a text, with keys and values of what was read before it. */
  #block(
    layer: number,
    x: Tensor,
    old: { k: Tensor; v: Tensor },
    angles: Readonly<Record<'qCos' | 'qSin' | 'kCos' | 'kSin', Tensor>>,
    mask: Tensor,
  ): { y: Tensor; k: Tensor; v: Tensor } {
    const tf = tensorflow();
    const model = this.#model;
    const { heads, kvHeads, headDim, rmsEps } = model.config;
    const count = x.shape[0]!;
    const apply = (kind: string, input: Tensor) => linear(model, this.#adapter, layer, kind, input);
    const norm1 = rmsNorm(x, model.parameter(layerName(layer, 'input_layernorm.weight')), rmsEps).y;
    const project = (kind: string, of: number) => tf.reshape(apply(kind, norm1), [count, of, 1, headDim]);
    const q = rotate(project('self_attn.q_proj', heads), angles.qCos, angles.qSin);
    const added = (before: Tensor, own: Tensor) =>
      tf.keep(tf.concat([before, tf.reshape(own, [count * kvHeads, 1, headDim])], 1));
    const k = added(old.k, rotate(project('self_attn.k_proj', kvHeads), angles.kCos, angles.kSin));
    const v = added(old.v, project('self_attn.v_proj', kvHeads));
    const scores = batchMatMul(tf.reshape(q, [count * kvHeads, heads / kvHeads, headDim]), k, false, true);
    const context = batchMatMul(tf.softmax(tf.add(scores, mask)), v);
    const middle = tf.add(x, apply('self_attn.o_proj', tf.reshape(context, [count, heads * headDim])));
    return { y: feedForward(model, this.#adapter, layer, middle).y, k, v };
  }
}
