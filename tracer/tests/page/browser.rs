//! A headless Chromium, driven over its debugging pipe: JSON messages that end with NUL, on its descriptors 3 and 4.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

/// As distributions call it.
const NAMES: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];
/// An emulated or busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(90);

const FLAGS: [&str; 10] = [
    "--headless",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
];

/// Moves its standard streams to where Chromium expects the pipe.
const PIPE: &str = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#;

/// The program, where there is one.
pub(crate) fn find() -> Option<PathBuf> {
    let directories: Vec<_> = env::split_paths(&env::var_os("PATH")?).collect();
    let candidates = NAMES
        .iter()
        .flat_map(|name| directories.iter().map(move |each| each.join(name)));
    candidates.into_iter().find(|path| path.is_file())
}

pub(crate) struct Browser {
    child: Child,
    input: ChildStdin,
    messages: Receiver<Value>,
    last: u64,
    _profile: TempDir,
}

impl Browser {
    pub(crate) fn start(program: &Path) -> Result<Self> {
        let profile = TempDir::new()?;
        let mut command = Command::new("sh");
        command.args(["-c", PIPE]).arg(program).args(FLAGS);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        // Chromium's sandbox refuses to work for root.
        if rustix::process::geteuid().is_root() {
            command.arg("--no-sandbox");
        }
        let piped = command
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = piped
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start sh")?;
        let input = child.stdin.take().context("no standard input")?;
        let output = child.stdout.take().context("no standard output")?;
        Ok(Self {
            child,
            input,
            messages: read(output),
            last: 0,
            _profile: profile,
        })
    }

    /// A page of its own, with a window of this width.
    pub(crate) fn open(&mut self, url: &str, width: u32) -> Result<Tab<'_>> {
        let target = self.call(
            None,
            "Target.createTarget",
            &json!({ "url": "about:blank" }),
            &mut Vec::new(),
        )?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = self.call(None, "Target.attachToTarget", &attach, &mut Vec::new())?;
        let session = session["sessionId"]
            .as_str()
            .context("no session")?
            .to_owned();
        let mut tab = Tab {
            browser: self,
            session,
            events: Vec::new(),
        };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            tab.call(&format!("{domain}.enable"), &json!({}))?;
        }
        tab.resize(width)?;
        tab.call("Page.navigate", &json!({ "url": url }))?;
        tab.wait_for("Page.loadEventFired")?;
        tab.settle()?;
        Ok(tab)
    }

    /// Sends a command and returns its result; events that come meanwhile go to `events`.
    fn call(
        &mut self,
        session: Option<&str>,
        method: &str,
        params: &Value,
        events: &mut Vec<Value>,
    ) -> Result<Value> {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": params });
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(0);
        self.input
            .write_all(&bytes)
            .context("the browser has ended")?;
        loop {
            let mut message = self
                .next()
                .with_context(|| format!("no answer to {method}"))?;
            if message["id"] != self.last {
                events.push(message);
                continue;
            }
            if let Some(error) = message.get("error") {
                bail!("{method}: {error}");
            }
            return Ok(message["result"].take());
        }
    }

    fn next(&self) -> Result<Value> {
        self.messages
            .recv_timeout(PATIENCE)
            .context("the browser says nothing")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.call(None, "Browser.close", &json!({}), &mut Vec::new());
        let _ = self.child.wait();
    }
}

/// A thread reads, so that waiting can end.
fn read(output: ChildStdout) -> Receiver<Value> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for message in BufReader::new(output).split(0).map_while(Result::ok) {
            let Ok(message) = serde_json::from_slice(&message) else {
                return;
            };
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A page that is open.
pub(crate) struct Tab<'a> {
    browser: &'a mut Browser,
    session: String,
    /// All that happened.
    events: Vec<Value>,
}

impl Tab<'_> {
    pub(crate) fn call(&mut self, method: &str, params: &Value) -> Result<Value> {
        let session = self.session.clone();
        self.browser
            .call(Some(&session), method, params, &mut self.events)
    }

    pub(crate) fn reload(&mut self) -> Result<()> {
        self.events.clear();
        self.call("Page.reload", &json!({}))?;
        self.wait_for("Page.loadEventFired")?;
        self.settle()
    }

    fn wait_for(&mut self, event: &str) -> Result<()> {
        while !self
            .events
            .iter()
            .any(|each| each["method"] == event && each["sessionId"] == *self.session)
        {
            let next = self.browser.next().with_context(|| format!("no {event}"))?;
            self.events.push(next);
        }
        Ok(())
    }

    /// The value of an expression; it may be a promise.
    pub(crate) fn eval(&mut self, expression: &str) -> Result<Value> {
        let params =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", &params)?;
        if let Some(problem) = answer.get("exceptionDetails") {
            bail!("{expression}: {problem}");
        }
        Ok(answer["result"]["value"].take())
    }

    pub(crate) fn number(&mut self, expression: &str) -> Result<f64> {
        self.eval(expression)?
            .as_f64()
            .with_context(|| format!("{expression} is no number"))
    }

    pub(crate) fn text(&mut self, expression: &str) -> Result<String> {
        let value = self.eval(expression)?;
        value
            .as_str()
            .map(Into::into)
            .with_context(|| format!("{expression} is no text: {value}"))
    }

    /// Until what was asked for is on the screen.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.eval("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")?;
        Ok(())
    }

    pub(crate) fn resize(&mut self, width: u32) -> Result<()> {
        let params =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", &params)?;
        self.settle()
    }

    pub(crate) fn prefer(&mut self, scheme: &str) -> Result<()> {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call(
            "Emulation.setEmulatedMedia",
            &json!({ "features": features }),
        )?;
        self.settle()
    }

    /// Presses, moves through all points, and lets go at the last.
    pub(crate) fn drag(&mut self, points: &[(f64, f64)]) -> Result<()> {
        let mouse = |kind: &str, (x, y): (f64, f64), buttons: u8| json!({ "type": kind, "x": x, "y": y, "button": "left", "buttons": buttons, "clickCount": 1 });
        let (first, last) = (points[0], points[points.len() - 1]);
        self.call("Input.dispatchMouseEvent", &mouse("mouseMoved", first, 0))?;
        self.call("Input.dispatchMouseEvent", &mouse("mousePressed", first, 1))?;
        for point in &points[1..] {
            self.call("Input.dispatchMouseEvent", &mouse("mouseMoved", *point, 1))?;
        }
        self.call("Input.dispatchMouseEvent", &mouse("mouseReleased", last, 0))?;
        self.settle()
    }

    pub(crate) fn key(&mut self, key: &str) -> Result<()> {
        for kind in ["keyDown", "keyUp"] {
            self.call(
                "Input.dispatchKeyEvent",
                &json!({ "type": kind, "key": key, "code": key }),
            )?;
        }
        self.settle()
    }

    /// The whole page as PNG, in base64.
    pub(crate) fn screenshot(&mut self) -> Result<String> {
        let params = json!({ "format": "png", "captureBeyondViewport": true });
        let answer = self.call("Page.captureScreenshot", &params)?;
        answer["data"]
            .as_str()
            .map(Into::into)
            .context("no picture")
    }

    /// The page on paper, in base64.
    pub(crate) fn pdf(&mut self) -> Result<String> {
        let answer = self.call("Page.printToPDF", &json!({ "preferCSSPageSize": true }))?;
        answer["data"].as_str().map(Into::into).context("no PDF")
    }

    /// Nothing was complained of, nothing asked for, nothing popped up.
    pub(crate) fn is_quiet(&mut self, url: &str) -> Result<()> {
        self.settle()?;
        for event in &self.events {
            let text = event.to_string();
            match event["method"].as_str().unwrap_or_default() {
                "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded" => {
                    bail!("the console says: {text}")
                }
                "Page.javascriptDialogOpening" => bail!("a script of others ran: {text}"),
                "Network.requestWillBeSent" => {
                    let asked = event["params"]["request"]["url"]
                        .as_str()
                        .unwrap_or_default();
                    ensure!(
                        asked == url || asked.starts_with("data:"),
                        "a request leaves the page: {text}"
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Tab<'_> {
    fn drop(&mut self) {
        let _ = self.call("Page.close", &json!({}));
    }
}
