//! `nearfield synth`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use nearfield_hub::format_bytes;
use nearfield_model::LineUpModel;
use nearfield_quantize::synth::{SynthFormat, SynthModel, SynthOptions, tensor_bytes, write};

use crate::app::App;
use crate::failure::UsageError;
use crate::output::Stdout;
use crate::signals::exit_when_stopped;

/// Bytes that stay free on the disk.
const RESERVE: u64 = 256 << 20;

/// Write a model of real shape with random weights, to measure with: its answers mean nothing
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SynthCommand {
    /// Whose shape: a name that `nearfield fit` without a model lists
    #[arg(value_name = "ARCH")]
    model: String,

    /// A file that ends in .gguf, or else a folder for a checkpoint
    #[arg(value_name = "OUT")]
    out: PathBuf,

    /// How layers are stored
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        hide_possible_values = true,
        help = "How layers are stored: nvfp4, mxfp4, fp8 (checkpoints), bf16, q4_0 or q8_0 (GGUF)",
        default_value = "nvfp4"
    )]
    format: FormatName,

    /// How embeddings and the output head are stored [default: bf16]
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        hide_possible_values = true,
        default_value = "bf16",
        hide_default_value = true
    )]
    tables: FormatName,

    /// Another seed gives other weights
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
}

const EXAMPLES: &str = "\
Examples:
  nearfield synth qwen3.5-0.8b qwen-nvfp4
  nearfield synth gemma4-e2b gemma-q4.gguf --format q4_0 --tables q4_0

The same model, formats and seed give the same weights, in a checkpoint and in a GGUF file alike.";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatName {
    Nvfp4,
    Mxfp4,
    Fp8,
    Bf16,
    #[value(name = "q4_0")]
    Q4_0,
    #[value(name = "q8_0")]
    Q8_0,
}

impl From<FormatName> for SynthFormat {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Nvfp4 => Self::Nvfp4,
            FormatName::Mxfp4 => Self::Mxfp4,
            FormatName::Fp8 => Self::Fp8,
            FormatName::Bf16 => Self::Bf16,
            FormatName::Q4_0 => Self::Q4_0,
            FormatName::Q8_0 => Self::Q8_0,
        }
    }
}

impl SynthCommand {
    pub(crate) fn run(self, app: &App) -> Result<()> {
        exit_when_stopped();
        let model = LineUpModel::find(&self.model).ok_or_else(|| unknown(&self.model))?;
        let model = SynthModel::new(model)?;
        let options =
            SynthOptions { format: self.format.into(), tables: self.tables.into(), seed: self.seed };
        let bytes = tensor_bytes(&model, &options, &self.out)?;
        check_space(&self.out, bytes)?;
        app.note(&format!("writing {} to {}", format_bytes(bytes), self.out.display()));
        let (mut written, mut told) = (0, 0);
        write(&model, &options, &self.out, &mut |more| {
            written += more;
            if written >= told + (2 << 30) {
                told = written;
                app.note(&format!("  {} of {}", format_bytes(written), format_bytes(bytes)));
            }
            Ok(())
        })?;
        Stdout::new().line(&format!("{} is written: {}", self.out.display(), format_bytes(bytes)))?;
        Ok(())
    }
}

fn unknown(name: &str) -> UsageError {
    let names: Vec<&str> = LineUpModel::all().iter().map(|model| model.name).collect();
    UsageError(format!("no shape is known for {name}; known are {}", names.join(", ")))
}

/// Refuses to fill a disk.
fn check_space(out: &Path, bytes: u64) -> Result<()> {
    let folder =
        out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let free = fs4::available_space(folder)
        .with_context(|| format!("{} is no folder to write to", folder.display()))?;
    if free < bytes.saturating_add(RESERVE) {
        bail!(
            "{} has {} free, but {} are needed; name a place with more room",
            folder.display(),
            format_bytes(free),
            format_bytes(bytes)
        );
    }
    Ok(())
}
