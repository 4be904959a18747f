import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import type { VersionManifest } from '../../src/learn/model/version.ts';
import { publishOutbox } from '../../src/loop/publish/index.ts';
import {
  createVersion,
  openVersion,
  promote,
  resolveModelName,
  rollback,
  verifyVersion,
  versionName,
} from '../../src/loop/registry/index.ts';
import { type Artifacts, openArtifacts } from '../../src/store/artifacts.ts';
import { CHANNEL, type Database } from '../../src/store/database.ts';
import { appendEvent, eventsAfter, pruneEvents } from '../../src/store/outbox.ts';
import { aliasHistory, aliasVersion, insertVersion, listVersions } from '../../src/store/versions.ts';
import { testDatabase, testServers } from '../support/database.ts';
import { manifest } from '../support/manifest.ts';

const settings = { name: 'learnd' };

async function store(t: TestContext): Promise<Artifacts> {
  const root = mkdtempSync(join(tmpdir(), 'learnd-registry-'));
  t.after(() => rmSync(root, { recursive: true, force: true }));
  return openArtifacts(root);
}

async function weights(artifacts: Artifacts, text: string): Promise<VersionManifest> {
  const model = await artifacts.putBytes(Buffer.from(`model ${text}`), 'gguf');
  return {
    base: { name: 'scratch', sha256: model.sha256 },
    model: { ...model, quantization: 'f32', parameters: 1 },
    heads: {},
  };
}

const create = async (db: Database, artifacts: Artifacts, text: string, more: { state?: 'rejected' } = {}) => {
  const content = await weights(artifacts, text);
  return db.tx(tx =>
    createVersion(tx, artifacts, {
      ...settings,
      manifest: content,
      parent: null,
      round: null,
      epsilon: 0,
      evaluation: null,
      ...more,
    }),
  );
};

for (const server of testServers()) {
  test(`${server}: versions count up, whoever makes them, and open to absolute paths`, async t => {
    const db = await testDatabase(t, { server, max: 8 });
    const artifacts = await store(t);
    await assert.rejects(
      db.tx(async tx => {
        await insertVersion(tx, manifest(99));
        throw new Error('rolled back');
      }),
    );
    const made = await Promise.all(Array.from({ length: 8 }, (_, n) => create(db, artifacts, String(n))));
    assert.deepEqual(
      made.map(({ n }) => n).sort((a, b) => a - b),
      [1, 2, 3, 4, 5, 6, 7, 8],
    );
    const model = await weights(artifacts, 'full');
    const adapter = await artifacts.putBytes(Buffer.from('adapter'), 'gguf');
    const head = await artifacts.putBytes(Buffer.from('head'), 'safetensors');
    const features = await artifacts.putBytes(Buffer.from('features'), 'gguf');
    const bias = await artifacts.putBytes(Buffer.from('[[5,-1.5],[7,2]]'), 'json');
    const row = await db.tx(tx =>
      createVersion(tx, artifacts, {
        ...settings,
        manifest: {
          ...model,
          adapter: { ...adapter, scale: 1, rank: 8 },
          logit_bias: bias,
          chat_template: '{{ messages }}',
          heads: {
            intent: { ...head, features, base: model.model.sha256, layer: 3, pooling: 'mean', labels: ['a', 'b'] },
          },
        },
        parent: 8,
        round: 12,
        epsilon: 0.5,
        evaluation: { perplexity: 9.5, f1: null },
      }),
    );
    assert.deepEqual(await openVersion((await listVersions(db, 1))[0]!, artifacts), {
      version: 'learnd@9',
      sha256: row.sha256,
      model: join(artifacts.root, model.model.file),
      adapter: { path: join(artifacts.root, adapter.file), scale: 1 },
      logitBias: [
        [5, -1.5],
        [7, 2],
      ],
      heads: {
        intent: {
          file: join(artifacts.root, head.file),
          features: join(artifacts.root, features.file),
          layer: 3,
          labels: ['a', 'b'],
        },
      },
      chatTemplate: '{{ messages }}',
    });
    await verifyVersion(row, artifacts);
    writeFileSync(join(artifacts.root, adapter.file), 'ADAPTER');
    await assert.rejects(verifyVersion(row, artifacts), { code: 'corrupt' });
    rmSync(join(artifacts.root, features.file));
    await assert.rejects(openVersion(row, artifacts), /is missing/);
    await db.query(`update versions set manifest = jsonb_set(manifest, '{adapter,scale}', '2') where n = 9`);
    await assert.rejects(openVersion((await listVersions(db, 1))[0]!, artifacts), /not the one that was registered/);
    await assert.rejects(
      db.tx(tx => createVersion(tx, artifacts, { ...row, name: 'learnd', state: 'ready' })),
      {
        code: 'corrupt',
      },
    );
    const published = (await eventsAfter(db, 0)).at(-1)!;
    assert.deepEqual(
      [published.type, published.data],
      ['learnd.version.published', { version: 'learnd@9', sha256: row.sha256, parent: 'learnd@8', round: 12 }],
    );
  });

  test(`${server}: promote, roll back, and names that follow`, async t => {
    const db = await testDatabase(t, { server });
    const artifacts = await store(t);
    const told: string[] = [];
    await db.listen(CHANNEL, payload => told.push(payload));
    await assert.rejects(resolveModelName(db, settings, 'learnd'), { code: 'not_found', message: /no champion yet/ });
    await assert.rejects(rollback(db), { code: 'conflict' });
    for (const text of ['one', 'two', 'three']) await create(db, artifacts, text);
    const rejected = await create(db, artifacts, 'bad', { state: 'rejected' });
    for (const version of [1, 2, 3]) await promote(db, { version, reason: `round ${version}`, fence: version });
    assert.equal((await aliasVersion(db, 'champion'))!.n, 3);

    await assert.rejects(promote(db, { version: rejected.n, reason: 'anyway' }), { code: 'conflict' });
    await assert.rejects(promote(db, { version: 77, reason: 'nothing' }), { code: 'not_found' });
    await assert.rejects(promote(db, { version: 1, reason: 'late', fence: 2 }), { code: 'conflict' });
    // Again: nothing is written. A person's wish carries no fence.
    const entries = (await aliasHistory(db, 'champion')).length;
    assert.equal((await promote(db, { version: 3, reason: 'again' })).previous?.n, 3);
    assert.equal((await aliasHistory(db, 'champion')).length, entries);

    const back = await rollback(db);
    assert.deepEqual([back.version.n, back.previous?.n], [2, 3]);
    assert.equal((await rollback(db)).version.n, 1);
    await assert.rejects(rollback(db), /learnd@1 is the first champion/);
    await promote(db, { version: 3, reason: 'by hand' });
    assert.equal((await rollback(db, { version: 2, reason: 'slow' })).version.n, 2);
    await assert.rejects(promote(db, { version: 1, reason: 'late', fence: 2 }), { code: 'conflict' });

    assert.deepEqual(
      (await aliasHistory(db, 'champion')).map(({ version, previous, kind, reason }) => [
        version,
        previous,
        kind,
        reason,
      ]),
      [
        [1, null, 'promote', 'round 1'],
        [2, 1, 'promote', 'round 2'],
        [3, 2, 'promote', 'round 3'],
        [2, 3, 'rollback', 'rolled back from learnd@3'],
        [1, 2, 'rollback', 'rolled back from learnd@2'],
        [3, 1, 'promote', 'by hand'],
        [2, 3, 'rollback', 'slow'],
      ],
    );
    for (const [model, n] of [
      ['learnd', 2],
      ['learnd@champion', 2],
      ['learnd@3', 3],
      ['learnd@4', 4],
    ] as const)
      assert.equal(versionName(await resolveModelName(db, settings, model)), `learnd@${n}`);
    for (const model of ['learnd@9', 'learnd@0', 'learnd@best', 'learnd@', 'gpt', 'learnd@challenger', ''])
      await assert.rejects(resolveModelName(db, settings, model), { code: 'not_found', field: 'model' }, model);
    const types = (await eventsAfter(db, 0)).map(({ type }) => type.replace('learnd.version.', ''));
    assert.deepEqual(types, [
      ...['published', 'published', 'published'],
      ...['promoted', 'promoted', 'promoted', 'rolled-back', 'rolled-back', 'promoted', 'rolled-back'],
    ]);
    for (let n = 0; n < 3_000 && told.length < 7; n++) await new Promise(resolve => setTimeout(resolve, 10));
    assert.deepEqual(told, Array(7).fill('alias'));
  });

  test(`${server}: the outbox is published in order, once when all goes well, again when it does not`, async t => {
    const db = await testDatabase(t, { server, max: 8 });
    const append = (signal: string) =>
      db.tx(tx => appendEvent(tx, 'learnd.alarm.cleared', { signal, version: 'learnd@1', why: 'promotion' }));
    await Promise.all(Array.from({ length: 20 }, (_, n) => append(`s${n}`)));
    const sent: Array<{ topic: string; key: string; value: string }> = [];
    let fail = 7;
    const log = {
      publish: async (topic: string, key: string, value: string) => {
        if (--fail === 0) throw new Error('broker away');
        sent.push({ topic, key, value });
      },
    };
    await assert.rejects(publishOutbox(db, log, { name: 'learnd', batch: 5 }), /broker away/);
    assert.equal(sent.length, 6);
    assert.deepEqual(
      await Promise.all([
        publishOutbox(db, log, { name: 'learnd', batch: 5 }),
        publishOutbox(db, log, { name: 'learnd', batch: 5 }),
      ]).then(counts => counts.reduce((a, b) => a + b)),
      14,
    );
    const events = sent.map(({ value }) => JSON.parse(value) as { id: string });
    const stored = await eventsAfter(db, 0);
    assert.deepEqual(
      events.map(({ id }) => Number(id)),
      stored.map(({ id }) => id),
    );
    assert.deepEqual(
      new Set(sent.map(({ topic, key }) => `${topic} ${key}`)),
      new Set(['learnd.announcements learnd']),
    );
    assert.deepEqual(events[0], {
      specversion: '1.0',
      id: String(stored[0]!.id),
      source: '/learnd/learnd',
      type: 'learnd.alarm.cleared',
      time: stored[0]!.created_at.toISOString(),
      datacontenttype: 'application/json',
      data: stored[0]!.data,
    });
    assert.equal(await publishOutbox(db, log, { name: 'learnd' }), 0);
    assert.equal(await pruneEvents(db, 60_000), 0);
    assert.equal(await pruneEvents(db, -1_000), 20);
  });
}
