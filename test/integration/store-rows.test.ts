import assert from 'node:assert/strict';
import test from 'node:test';
import type { Exchange } from '../../src/events/exchange.ts';
import { connect } from '../../src/store/database.ts';
import { eraseExchanges, loadExchange, saveExchange } from '../../src/store/exchanges.ts';
import { deploymentSecret, factOnce, getFact, setFact } from '../../src/store/facts.ts';
import { createKey, findKey, hashKey, listKeys, revokeKey } from '../../src/store/keys.ts';
import { testDatabase, testLog, testServers } from '../support/database.ts';

for (const server of testServers()) {
  test(`${server}: a key is found by its hash until it is revoked; the token is nowhere`, async t => {
    const db = await testDatabase(t, { server });
    const { token, hash } = await createKey(db, { name: 'admin', scopes: ['admin', 'respond'] });
    assert.match(token, /^learnd_[\w-]{43}$/);
    assert.equal(hash, hashKey(token));
    assert.deepEqual((await findKey(db, hash))?.scopes, ['admin', 'respond']);
    assert.equal(await findKey(db, hashKey('another')), undefined);
    const { rows } = await db.query<{ t: string }>('select keys::text as t from keys');
    assert.ok(!rows[0]!.t.includes(token));
    await revokeKey(db, hash);
    assert.equal(await findKey(db, hash), undefined);
    await assert.rejects(revokeKey(db, hash), { code: 'not_found' });
    assert.equal((await listKeys(db)).length, 1);
    await createKey(db, { name: 'again', scopes: ['feedback'], token });
    assert.deepEqual((await findKey(db, hash))?.scopes, ['feedback']);
    await assert.rejects(createKey(db, { name: 'x', scopes: ['root' as never] }), { field: 'scopes' });
    await assert.rejects(createKey(db, { name: 'x', scopes: [] }), { field: 'scopes' });
    await assert.rejects(createKey(db, { name: 'x', scopes: ['admin'], token: 'short' }), { field: 'token' });
  });

  test(`${server}: the deployment's secret is made once, also by many at once`, async t => {
    const db = await testDatabase(t, { server });
    const others = Array.from({ length: 6 }, () => connect(db.url, { log: testLog, max: 1 }));
    const secrets = await Promise.all(others.map(other => deploymentSecret(other)));
    await Promise.all(others.map(other => other.close()));
    assert.equal(secrets[0]!.length, 32);
    assert.equal(new Set(secrets.map(secret => secret.toString('hex'))).size, 1);
    assert.deepEqual(await deploymentSecret(db), secrets[0]);
    await setFact(db, 'secret', 'tampered');
    await assert.rejects(deploymentSecret(db), { code: 'corrupt' });
    assert.equal(await getFact(db, 'none'), undefined);
    assert.deepEqual(await factOnce(db, 'list', () => [1, { a: null }]), [1, { a: null }]);
    await setFact(db, 'list', []);
    assert.deepEqual(await getFact(db, 'list'), []);
  });

  test(`${server}: an exchange reads back as it was saved, once, and goes with its user`, async t => {
    const db = await testDatabase(t, { server });
    const exchange: Exchange = {
      responseId: 'resp_1',
      previousResponseId: undefined,
      version: 'learnd@2',
      api: 'responses',
      instructions: 'Be brief.',
      input: [{ role: 'user', content: 'Grüße 😀' }],
      output: 'Hallo',
      status: 'incomplete',
      incompleteReason: 'max_output_tokens',
      user: 'u-7',
      metadata: { user: 'u-7' },
      inputTokens: 9,
      outputTokens: 2,
      createdAt: 1_767_323_045_678,
      latencyMs: 12.5,
      firstTokenMs: undefined,
    };
    await saveExchange(db, exchange);
    await saveExchange(db, { ...exchange, output: 'another' });
    assert.deepEqual(await loadExchange(db, 'resp_1'), exchange);
    await saveExchange(db, { ...exchange, responseId: 'resp_2', output: 'a\0b\ud800', previousResponseId: 'resp_1' });
    const second = await loadExchange(db, 'resp_2');
    assert.deepEqual([second?.output, second?.previousResponseId], ['a\uFFFDb\uFFFD', 'resp_1']);
    assert.equal(await loadExchange(db, 'resp_3'), undefined);
    assert.equal(await eraseExchanges(db, 'u-7'), 2);
    assert.equal(await loadExchange(db, 'resp_1'), undefined);
  });
}
