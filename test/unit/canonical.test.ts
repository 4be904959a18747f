import assert from 'node:assert/strict';
import test from 'node:test';
import { canonicalJson } from '../../src/base/canonical.ts';
import { fc } from '../support/properties.ts';

test('keys are sorted, undefined is absent, dates are their ISO text', () => {
  const value = { b: [1, { z: null, a: undefined, y: 'ü"' }], a: new Date(0), '': -0.5 };
  assert.equal(canonicalJson(value), '{"":-0.5,"a":"1970-01-01T00:00:00.000Z","b":[1,{"y":"ü\\"","z":null}]}');
  assert.equal(canonicalJson([undefined, Number.NaN]), '[null,null]');
});

test('it is JSON of the same value, and one text for one value', () => {
  fc.assert(
    fc.property(fc.jsonValue(), value => {
      const text = canonicalJson(value);
      assert.deepEqual(JSON.parse(text), JSON.parse(JSON.stringify(value)));
      const turned = (v: unknown): unknown =>
        Array.isArray(v)
          ? v.map(turned)
          : v !== null && typeof v === 'object'
            ? Object.fromEntries(
                Object.entries(v)
                  .reverse()
                  .map(([k, e]) => [k, turned(e)]),
              )
            : v;
      assert.equal(canonicalJson(turned(value)), text);
    }),
  );
});
