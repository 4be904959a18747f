/**
 * Text for `base: scratch`: plain sentences and short conversations put together from word lists written for this file. Enough for
 * a small model to learn spelling, word order and turn-taking; nobody's data, and the same text on every machine.
 */
import { type SecureStream, streamFor } from '../privacy/index.ts';
import { PUBLIC_SENTENCES } from './public-text.ts';

const LISTS = {
  who: 'I,we,they,my sister,the manager,our neighbour,the driver,a friend,the teacher,my parents,the shop,the company,the office,a customer,the doctor,the team'.split(
    ',',
  ),
  thing:
    'card,account,payment,transfer,refund,order,parcel,invoice,ticket,password,phone,receipt,contract,letter,room,table,book,key,bag,coat,car,bicycle,garden,window,picture,song,recipe,machine,printer,screen,battery,message,address,number,name,limit,balance,fee,rate,loan,currency,code,device,app,subscription,delivery,booking,flight,train,insurance'.split(
      ',',
    ),
  quality:
    'new,old,lost,late,broken,small,large,wrong,missing,cheap,blue,green,heavy,quiet,empty,second,last,monthly,free,strange,stolen,expired,declined,pending,foreign,virtual,temporary,joint,frozen,double'.split(
      ',',
    ),
  done: 'found,lost,sent,bought,sold,cancelled,changed,returned,opened,closed,paid,ordered,repaired,moved,painted,forgot,remembered,checked,received,blocked,charged,updated,confirmed,replaced,reported,requested'.split(
    ',',
  ),
  act: 'find,send,buy,sell,cancel,change,return,open,close,pay,order,repair,move,check,receive,block,update,confirm,replace,report,request,activate,track,transfer,verify,renew,extend,delete,add,remove'.split(
    ',',
  ),
  when: 'today,yesterday,this morning,last week,on Monday,in the evening,before noon,after the holiday,next month,at night,twice a year,every day,right now,two days ago,an hour ago'.split(
    ',',
  ),
  where:
    'at the station,in the kitchen,near the river,at the bank,in the city,abroad,online,in the shop,at home,behind the school,on the street,in the app,at the counter,in the hotel,at the airport'.split(
      ',',
    ),
  why: 'because it was raining,because the price had changed,since nobody answered,so that it would arrive in time,although it was late,as it did not work,because I was away,in order to save money'.split(
    ',',
  ),
} as const;

type List = keyof typeof LISTS;

const SENTENCES = [
  '{who} {done} the {quality} {thing} {when}.',
  '{who} {done} a {thing} {where} {when}.',
  'The {thing} is {quality} and the {thing} is {quality}.',
  'Where can I {act} my {thing}?',
  'How do I {act} a {quality} {thing} {where}?',
  'Why was my {thing} {done} {when}?',
  'Can you help me {act} the {thing}?',
  'I want to {act} my {quality} {thing}.',
  'I need to {act} a {thing} {when}.',
  'What happens if my {thing} is {quality}?',
  'Is it possible to {act} the {thing} {where}?',
  'Please {act} the {quality} {thing} {when}.',
  'My {thing} was {done} {where}, but it is still {quality}.',
  '{who} {done} the {thing} {why}.',
  'When will the {quality} {thing} be {done}?',
  'How much does it cost to {act} a {thing}?',
  'Someone {done} my {thing} {when} and I do not know why.',
  'There is a {quality} {thing} {where}.',
  'Which {thing} should I {act} first?',
  'The {thing} has not been {done} yet.',
] as const;

const ANSWERS = [
  'You can {act} it {where}.',
  'Please {act} the {thing} first, then try again.',
  'It was {done} {when}.',
  'We are sorry. The {thing} will be {done} {when}.',
  'Yes, you can {act} a {thing} {where}.',
  'No, the {thing} is {quality}.',
  'The {quality} {thing} is {where}.',
  'Thank you for telling us about the {thing}.',
] as const;

const pick = <T>(from: readonly T[], stream: SecureStream): T => from[stream.below(from.length)]!;

function fill(template: string, stream: SecureStream): string {
  const text = template.replace(/\{(\w+)\}/g, (_, list: List) => pick(LISTS[list], stream));
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** `count` documents: two thirds sentences, one third conversations in the plain form that models without a chat template are asked in. */
export function scratchCorpus(count = 3000): string[] {
  const stream = streamFor(new Uint8Array(32), 'scratch corpus');
  const made = Array.from({ length: count }, (_, i) => {
    if (i % 3 !== 0) return fill(pick(SENTENCES, stream), stream);
    const question = stream.below(2) === 0 ? pick(PUBLIC_SENTENCES, stream) : fill(pick(SENTENCES, stream), stream);
    return `User: ${question}\nAssistant: ${fill(pick(ANSWERS, stream), stream)}\n`;
  });
  return [...PUBLIC_SENTENCES, ...made];
}
