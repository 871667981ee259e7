//! A pseudo-terminal with a person's hands: what `-it` is tried with.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A command whose controlling terminal this is.
#[derive(Debug)]
pub struct Terminal {
    master: std::fs::File,
    output: Receiver<Vec<u8>>,
    /// Everything on the screen so far.
    pub screen: String,
    /// Where the next [`Terminal::expect`] starts to look.
    seen: usize,
    child: Child,
}

impl Terminal {
    /// Starts the command as the terminal's foreground program, in a session of its own.
    ///
    /// # Errors
    /// If there is no pseudo-terminal, or the command cannot be started.
    pub fn start(command: &Command, rows: u16, columns: u16) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        set_size(&master, rows, columns)?;
        let name = ptsname(&master, Vec::new())?;
        let name = name.to_str().context("the terminal has a strange name")?;
        let slave = std::fs::File::options().read(true).write(true).open(name)?;
        // setsid(1) makes the slave the controlling terminal, so that SIGWINCH arrives.
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        session.env("TERM", "xterm");
        session.stdin(Stdio::from(slave.try_clone()?));
        session.stdout(Stdio::from(slave.try_clone()?)).stderr(Stdio::from(slave));
        let child = session.spawn().context("starting setsid")?;
        drop(session);
        let master = std::fs::File::from(master);
        let output = read_in_background(master.try_clone()?);
        Ok(Self { master, output, screen: String::new(), seen: 0, child })
    }

    /// Types.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.master.write_all(text.as_bytes()).context("typing")
    }

    /// Waits until the text has appeared after what was found last.
    ///
    /// # Errors
    /// If it does not within fifteen seconds; the error shows the screen.
    pub fn expect(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let unseen = self.screen.get(self.seen..).unwrap_or_default();
            if let Some(at) = unseen.find(text) {
                self.seen += at + text.len();
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.screen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => bail!("{text:?} did not appear; the screen:\n{}", self.screen),
            }
        }
    }

    /// Changes the window's size, as dragging its corner does.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        set_size(&self.master, rows, columns)
    }

    /// Waits for the command to end; its exit status.
    ///
    /// # Errors
    /// If it runs for fifteen more seconds; it is killed then.
    pub fn end(mut self) -> Result<(i32, String)> {
        let deadline = Instant::now() + Duration::from_secs(15);
        while Instant::now() < deadline {
            while let Ok(bytes) = self.output.try_recv() {
                self.screen.push_str(&String::from_utf8_lossy(&bytes));
            }
            if let Some(status) = self.child.try_wait()? {
                return Ok((status.code().unwrap_or(-1), self.screen.clone()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("the program did not end; the screen:\n{}", self.screen)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn set_size(master: impl AsFd, rows: u16, columns: u16) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master.as_fd(), size).context("setting the window's size")
}

/// The screen's bytes as they come; the end of the slave side is an error (EIO), and ends it.
fn read_in_background(mut master: std::fs::File) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n) = master.read(&mut buffer) {
            if n == 0 || sender.send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}
