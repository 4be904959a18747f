import assert from 'node:assert/strict';
import { join } from 'node:path';
import test from 'node:test';
import OpenAI from 'openai';
import { writeFeatureModel } from '../../src/learn/model/export.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { json, startServing } from '../support/serving.ts';
import { smollm2 } from '../support/smollm.ts';

test('SmolLM2-135M: answers, classifies, gives features', async t => {
  const model = await smollm2(t);
  if (model === undefined) return;
  const s = await startServing(t, { serve: { context: 1024 } });
  const files = await s.version(1, { more: { model } });
  const loaded = await s.serving.setChampion(files);
  assert.ok(loaded.contextLength === 1024);
  const openai = new OpenAI({ apiKey: 'admin-key', baseURL: `${s.url}/v1` });
  const answer = await openai.responses.create({
    model: 'tiny',
    input: 'What is the capital of France?',
    instructions: 'You are a helpful assistant.',
    max_output_tokens: 32,
  });
  assert.match(answer.output_text, /Paris/);
  assert.equal(answer.status, 'completed');
  const next = await openai.responses.create({
    model: 'tiny',
    input: 'And of Italy?',
    instructions: 'You are a helpful assistant.',
    previous_response_id: answer.id,
    max_output_tokens: 32,
  });
  assert.match(next.output_text, /Rome/);
  assert.ok(next.usage!.input_tokens_details.cached_tokens > 30, 'the first turn comes from the cache');
  const emoji = await openai.chat.completions.create({
    model: 'tiny',
    messages: [{ role: 'user', content: 'Repeat exactly: 🙂 日本' }],
    max_tokens: 24,
    stream: true,
  });
  let text = '';
  for await (const chunk of emoji) text += chunk.choices[0]?.delta.content ?? '';
  assert.ok(!text.includes('\uFFFD'), text);

  const classified = await json(
    await s.post('/v1/classify', {
      task: 'intent',
      labels: ['card_arrival', 'exchange_rate', 'age_limit'],
      texts: ['When will my new card be delivered?', 'How many euros do I get for a dollar?', 'How old must I be?'],
    }),
  );
  const found = (classified.results as Array<{ label: string }>).map(result => result.label);
  assert.equal(found[0], 'card_arrival');

  const features = join(s.folder, 'features.gguf');
  await writeFeatureModel(await openModel(model), 10, features);
  const [one, empty] = await s.serving.engine.call('features', { file: features, texts: ['a text', ''] });
  assert.equal(one!.length, 576);
  assert.ok(Math.hypot(...one!) > 1);
  assert.equal(Math.hypot(...empty!), 0);
});
