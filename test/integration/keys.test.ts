import assert from 'node:assert/strict';
import test from 'node:test';
import { learnd, startTestDaemon, testFolder } from '../support/daemon.ts';
import { QUICK_SETTINGS, quickPolicies } from '../support/faults.ts';

test('a key of less than admin scope is made, used within its scope, and revoked', { timeout: 200_000 }, async t => {
  const daemon = await startTestDaemon(t, {
    data: testFolder(t, 'keys'),
    settings: QUICK_SETTINGS,
    policies: quickPolicies('false'),
  });
  const run = async (...args: string[]) => learnd([...args, '--data', daemon.data, '--json']);
  const answer = async (...args: string[]) => {
    const { code, stdout, stderr } = await run(...args);
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout) as Record<string, unknown>;
  };
  const status = async (key: string, path: string, body?: object): Promise<number> => {
    const response = await fetch(`${daemon.url}${path}`, {
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      ...(body && { method: 'POST', body: JSON.stringify(body) }),
    });
    await response.body?.cancel();
    return response.status;
  };

  const made = await answer('keys', 'create', 'app', '--scopes', 'feedback,respond');
  assert.deepEqual(made.scopes, ['respond', 'feedback']);
  const key = made.key as string;
  assert.equal(await status(key, '/v1/models'), 200);
  assert.equal(await status(key, '/v1/admin/status'), 403);
  assert.equal(await status(key, '/v1/admin/keys', { name: 'x', scopes: ['admin'] }), 403);
  const listed = (await answer('keys')) as unknown as { id: string; name: string; scopes: string[] }[];
  assert.ok(listed.some(k => k.id === made.id && k.name === 'app'));
  assert.ok(!JSON.stringify(listed).includes(key), 'a token is shown once');

  const wrong = await run('keys', 'create', 'app', '--scopes', 'everything');
  assert.notEqual(wrong.code, 0);
  assert.match(wrong.stderr, /scopes/);
  assert.match((await run('keys', 'create', 'app')).stderr, /--scopes respond,feedback/);
  const admin = listed.find(k => k.scopes.includes('admin'))!;
  assert.match((await run('keys', 'revoke', admin.id)).stderr, /last admin key/);
  assert.match((await run('keys', 'revoke', 'abc')).stderr, /no key "abc" is in force/);

  // One that no server has seen yet: remembering lasts up to ten seconds.
  const other = await answer('keys', 'create', 'gone', '--scopes', 'respond');
  assert.notEqual((await answer('keys', 'revoke', other.id as string)).revoked_at, null);
  assert.equal(await status(other.key as string, '/v1/models'), 401);
});
