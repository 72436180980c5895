//! What the host said while a stream took one input: written down, and given again in the same order.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Time,
    diagnosis::{case::Host, surroundings::Surroundings},
    event::Task,
    host::process::{Found, ProcessTable},
    pool::Settings,
};

/// One answer, by the question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// [`Time::now`]
    Now(u64),
    /// [`ProcessTable::look_up`]
    Found(Found),
    /// [`ProcessTable::is_alive`]
    Alive(Option<bool>),
    /// [`Surroundings::settings`]
    Settings(Option<Settings>),
    /// [`Surroundings::host`]
    Host(Host),
}

/// Answers in the order of the questions, shared by all who are asked.
#[derive(Clone, Debug, Default)]
pub struct Answers(Rc<RefCell<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    answers: VecDeque<Answer>,
    /// Questions that there was no answer to, or another's.
    missed: u64,
}

impl Answers {
    /// All that have been written down.
    pub fn take(&self) -> Vec<Answer> {
        self.0.borrow_mut().answers.drain(..).collect()
    }

    /// To be given from now on. Returns how many questions and answers did not fit until now.
    pub fn fill(&self, answers: Vec<Answer>) -> u64 {
        let mut queue = self.0.borrow_mut();
        let left = queue.answers.len() as u64;
        queue.answers = answers.into();
        left + std::mem::take(&mut queue.missed)
    }

    fn push(&self, answer: Answer) {
        self.0.borrow_mut().answers.push_back(answer);
    }

    /// The next answer, if it is one to this question.
    fn next<T>(&self, of: impl FnOnce(Answer) -> Option<T>) -> Option<T> {
        let mut queue = self.0.borrow_mut();
        let answer = queue.answers.pop_front().and_then(of);
        queue.missed += u64::from(answer.is_none());
        answer
    }
}

/// Passes questions on, and writes the answers down.
pub struct Recorded<T: ?Sized> {
    pub of: Box<T>,
    pub answers: Answers,
}

impl Time for Recorded<dyn Time> {
    fn now(&self) -> u64 {
        let now = self.of.now();
        self.answers.push(Answer::Now(now));
        now
    }
}

impl ProcessTable for Recorded<dyn ProcessTable> {
    fn look_up(&self, task: &Task) -> Found {
        let found = self.of.look_up(task);
        self.answers.push(Answer::Found(found.clone()));
        found
    }

    fn is_alive(&self, task: &Task) -> Option<bool> {
        let alive = self.of.is_alive(task);
        self.answers.push(Answer::Alive(alive));
        alive
    }
}

impl Surroundings for Recorded<dyn Surroundings> {
    fn settings(
        &mut self,
        netns: u32,
        task: Option<&Task>,
        now: u64,
        max_age: Duration,
    ) -> Option<Settings> {
        let settings = self.of.settings(netns, task, now, max_age);
        self.answers.push(Answer::Settings(settings.clone()));
        settings
    }

    fn host(&mut self, netns: u32, task: Option<&Task>, now: u64) -> Host {
        let host = self.of.host(netns, task, now);
        self.answers.push(Answer::Host(host.clone()));
        host
    }
}

impl Time for Answers {
    fn now(&self) -> u64 {
        let now = self.next(|answer| match answer {
            Answer::Now(now) => Some(now),
            _ => None,
        });
        now.unwrap_or(0)
    }
}

impl ProcessTable for Answers {
    fn look_up(&self, _: &Task) -> Found {
        let found = self.next(|answer| match answer {
            Answer::Found(found) => Some(found),
            _ => None,
        });
        found.unwrap_or_default()
    }

    fn is_alive(&self, _: &Task) -> Option<bool> {
        let alive = self.next(|answer| match answer {
            Answer::Alive(alive) => Some(alive),
            _ => None,
        });
        alive.unwrap_or(Some(false))
    }
}

impl Surroundings for Answers {
    fn settings(&mut self, _: u32, _: Option<&Task>, _: u64, _: Duration) -> Option<Settings> {
        let settings = self.next(|answer| match answer {
            Answer::Settings(settings) => Some(settings),
            _ => None,
        });
        settings.flatten()
    }

    fn host(&mut self, _: u32, _: Option<&Task>, _: u64) -> Host {
        let host = self.next(|answer| match answer {
            Answer::Host(host) => Some(host),
            _ => None,
        });
        host.unwrap_or_default()
    }
}
