//! A terminal without a window: a pseudo-terminal, and what a program has drawn on it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use super::wait_for;

/// A program that runs on a terminal of its own.
pub struct Terminal {
    child: Child,
    keys: File,
    /// Keeps the terminal open after the program's end, and knows its modes.
    other_end: OwnedFd,
    screen: Arc<Mutex<vt100::Parser>>,
    modes_before: LocalModes,
}

impl Terminal {
    pub fn start(command: &mut Command, columns: u16, rows: u16) -> Terminal {
        let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&near).and_then(|()| unlockpt(&near)).expect("it is ours");
        let name = ptsname(&near, vec![]).expect("it has a name");
        let other_end = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("its other end");
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&other_end, size).expect("it has a size");
        let cells = |n| std::num::NonZero::new(n).expect("a size");
        let modes_before = tcgetattr(&other_end).expect("it has modes").local_modes;
        let end = || other_end.try_clone().expect("a descriptor");
        command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "xterm-256color");
        let child = command.spawn().expect("the program");
        let mut output = File::from(near.try_clone().expect("a descriptor"));
        let screen = Arc::new(Mutex::new(vt100::Parser::new(cells(rows), cells(columns), 0)));
        let drawn = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = output.read(&mut bytes) {
                drawn.lock().unwrap().process(&bytes[..len]);
            }
        });
        Terminal { child, keys: near.into(), other_end, screen, modes_before }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the program reads keys");
    }

    /// What is on the screen.
    pub fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Waits until a text is on the screen.
    #[track_caller]
    pub fn wait_for_text(&self, text: &str) {
        wait_for(text, || self.text().contains(text).then_some(()), || self.text());
    }

    /// Waits for the program's end.
    #[track_caller]
    pub fn end(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for("its end", || child.try_wait().expect("it is our child"), String::new)
    }

    /// Whether the terminal is as it was before the program: its modes, its screen, its cursor.
    #[track_caller]
    pub fn assert_restored(&self) {
        assert_eq!(tcgetattr(&self.other_end).expect("it has modes").local_modes, self.modes_before);
        let is_restored = || {
            let screen = self.screen.lock().unwrap();
            (!screen.screen().alternate_screen() && !screen.screen().hide_cursor()).then_some(())
        };
        wait_for("the first screen and the cursor", is_restored, || self.text());
    }

    /// Whether the program has the terminal to itself: no echo, no lines.
    pub fn is_raw(&self) -> bool {
        !tcgetattr(&self.other_end).expect("it has modes").local_modes.contains(LocalModes::ECHO)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
